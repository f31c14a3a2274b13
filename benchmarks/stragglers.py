"""Compares a fixed number of steps per round with a shared count, for one slow worker of four.

Four real processes train digits for the same time. A step sleeps until it has taken a given time,
which is longer for the slow worker, so that the number of cores does not matter. The same runs are
also made with the virtual clock.
"""

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch.distributed as dist
from rich.progress import track
from torch import Tensor, nn

import grawa
from command import Benchmark, Results
from common import show
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.simulate.clock import VirtualClock
from grawa.lab.tasks import Digits
from grawa.lab.train.events import Finished
from grawa.lab.train.loop import train
from grawa.lab.train.settings import Settings
from grawa.rounds.report import RoundReport
from pictures import Point, stragglers_picture
from processes import one_thread, together
from samples import Sample, Samples

WORKERS = 4
SCHEDULES = {"every": grawa.Every, "shared-count": grawa.SharedCount}


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options."""

    speeds: tuple[float, ...] = (1.0, 0.5, 0.25)
    """Speeds of the slow worker."""
    seeds: int = 4
    """Number of runs of each kind."""
    budget: float = 8.0
    """Seconds of training."""
    step: float = 0.025
    """Seconds of a step at speed 1."""
    sync_every: int = 32
    """Local steps between rounds."""


TOY = Config(speeds=(1.0, 0.5), seeds=1, budget=0.2, step=0.004, sync_every=8)


class Kind(NamedTuple):
    """A kind of run."""

    schedule: str
    speed: float
    seed: int


def kinds(config: Config) -> list[Kind]:
    """All runs."""
    return [Kind(*kind) for kind in product(SCHEDULES, config.speeds, range(config.seeds))]


@dataclass(frozen=True, kw_only=True)
class Paced(Digits):
    """Digits with steps of at least a given duration."""

    seconds: float

    def loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Waits, then computes."""
        time.sleep(self.seconds)
        return super().loss(model, inputs, targets)


def measure(config: Config, samples: Samples) -> None:
    """Trains in real processes, then with the virtual clock."""
    with tempfile.TemporaryDirectory() as folder:
        together(_work, WORKERS, config, (Path(folder) / "rendezvous").as_uri(), samples)
    with one_thread():
        for kind in track(kinds(config), "virtual clock"):
            samples.add(clock="virtual", **kind._asdict(), found=_modelled(config, kind))


def merge(config: Config, samples: Sequence[Sample]) -> Results:
    """The runs that were made with both clocks, in the order of `kinds`."""
    found: dict[str, dict[Kind, dict[str, float]]] = {"real": {}, "virtual": {}}
    for sample in samples:
        kind = Kind(sample["schedule"], sample["speed"], sample["seed"])
        found[sample["clock"]][kind] = sample["found"]
    made = [kind for kind in kinds(config) if kind in found["real"]]
    return {
        "kinds": made,
        "real": [found["real"][kind] for kind in made],
        "virtual": [found["virtual"][kind] for kind in made if kind in found["virtual"]],
    }


def table(config: Config, results: Results) -> None:
    """Prints samples per second and errors."""
    asked = [Kind(*kind) for kind in results["kinds"]]
    rows = []
    for schedule, speed in dict.fromkeys(kind[:2] for kind in asked):
        chosen = [i for i, kind in enumerate(asked) if kind[:2] == (schedule, speed)]
        rows.append([
            f"{schedule}, one at speed {speed:g}",
            *(
                _summary([results[clock][i] for i in chosen if i < len(results[clock])], key)
                for key in ("samples", "error")
                for clock in ("real", "virtual")
            ),
        ])
    show(
        f"{WORKERS} workers, {config.budget:g} s, steps of {config.step * 1e3:g} ms, "
        f"sync_every {config.sync_every}, {config.seeds} seeds",
        ["LGRAWA on digits", "samples/s", "virtual", "test error %", "virtual"],
        rows,
    )
    print("mean and standard error of the seeds")


def draw(config: Config, results: Results, folder: Path) -> None:
    """Draws the content of the table."""
    shown = panels(config, results["real"], results["virtual"])
    stragglers_picture(config.speeds, config.budget, shown, folder / "stragglers.png")


def panels(
    config: Config, real: list[dict[str, float]], modelled: list[dict[str, float]]
) -> dict[str, dict[str, list[Point]]]:
    """The content of the picture: measure -> kind of run -> a point for each speed."""
    asked = kinds(config)

    def line(found: list[dict[str, float]], schedule: str, key: str) -> list[Point]:
        return [
            _point([one for one, kind in zip(found, asked, strict=True) if kind[:2] == at], key)
            for at in product([schedule], config.speeds)
        ]

    return {
        what: {
            f"{schedule}, {name}": line(found, schedule, key)
            for schedule in SCHEDULES
            for name, found in (("real", real), ("virtual clock", modelled))
        }
        for what, key in (("samples per second", "samples"), ("test error, %", "error"))
    }


def _point(found: list[dict[str, float]], key: str) -> Point:
    values = [one[key] * (100 if key == "error" else 1) for one in found]
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return statistics.mean(values), error


def _summary(found: list[dict[str, float]], key: str) -> str:
    if not found:
        return "-"
    mean, error = _point(found, key)
    return f"{mean:.1f} ± {error:.1f}"


def _work(rank: int, config: Config, meeting: str, samples: Samples) -> None:
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=WORKERS)
    for kind in track(kinds(config), "real workers ", disable=rank > 0):
        seconds = config.step / (kind.speed if rank == WORKERS - 1 else 1.0)
        found = _trained(Paced(seconds=seconds), _settings(config, kind))
        if rank == 0:
            samples.add(clock="real", **kind._asdict(), found=found)
    dist.barrier()
    dist.destroy_process_group()


def _modelled(config: Config, kind: Kind) -> dict[str, float]:
    speeds = [1.0] * (WORKERS - 1) + [kind.speed]
    clock = partial(VirtualClock, config.step, speeds=speeds)
    return _trained(Digits(), replace(_settings(config, kind), modelled=clock))


def _settings(config: Config, kind: Kind) -> Settings:
    usual = TrainConfig(task="digits", seed=kind.seed, stack_workers="off").settings()
    schedule = SCHEDULES[kind.schedule](config.sync_every)
    return replace(usual, steps=None, budget=config.budget, schedule=schedule)


def _trained(task: Digits, settings: Settings) -> dict[str, float]:
    """Samples per second of all workers until the last round, and the consensus's error."""
    events = list(train(task, lambda *_: grawa.LGRAWA(), settings))
    rounds = [event for event in events if isinstance(event, RoundReport)]
    steps = sum(float(report.steps_made.sum()) for report in rounds)
    assert isinstance(events[-1], Finished), "the last event is the end"
    samples = steps * settings.batch_size / rounds[-1].elapsed
    return {"samples": samples, "error": events[-1].error}


BENCHMARK = Benchmark(
    name="stragglers",
    text=__doc__,
    takes="4 minutes",
    config=Config(),
    toy=TOY,
    measure=measure,
    merge=merge,
    show=table,
    draw=draw,
)
main = BENCHMARK.run

if __name__ == "__main__":
    main()
