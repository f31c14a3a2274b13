"""One slow worker among four: rounds after every so many steps, against steps counted together.

Run `python benchmarks/stragglers.py`; `--help` tells the options. Four real processes train digits
for the same time; a step takes as long as is asked for, for the slow one longer, by sleeping, so
that the machine's cores are no limit. Beside it the virtual clock's prediction of the same runs.
"""

import json
import os
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import tyro
from rich.progress import track
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

import grawa
from common import show, write_results
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.files import write_text
from grawa.lab.simulate.clock import VirtualClock
from grawa.lab.tasks import Digits
from grawa.lab.train.loop import Finished, train
from grawa.lab.train.settings import Settings
from grawa.rounds.report import RoundReport
from grawa.rounds.schedule import Schedule
from pictures import Point, stragglers_picture

WORKERS = 4
SCHEDULES = {"every": grawa.Every, "shared-count": grawa.SharedCount}


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is measured."""

    speeds: tuple[float, ...] = (1.0, 0.5, 0.25)
    """Of the slow worker."""
    seeds: int = 4
    """Runs of each kind."""
    budget: float = 8.0
    """Seconds of training."""
    step: float = 0.025
    """Seconds of a step at speed 1."""
    sync_every: int = 32
    """Local steps between rounds."""
    output: Path = Path("benchmarks/results/stragglers.json")
    """Where all results go."""


@dataclass(frozen=True, kw_only=True)
class Paced(Digits):
    """Digits whose step takes a given time at least."""

    seconds: float

    def loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Waits, then computes."""
        time.sleep(self.seconds)
        return super().loss(model, inputs, targets)


def main(config: Config) -> None:
    """Measures, writes and prints."""
    os.environ["OMP_NUM_THREADS"] = "1"
    kinds = list(product(SCHEDULES, config.speeds, range(config.seeds)))
    with tempfile.TemporaryDirectory() as folder:
        spawn(_work, (config, kinds, folder), nprocs=WORKERS, daemon=True)
        real = json.loads((Path(folder) / "results.json").read_text(encoding="utf-8"))
    modelled = [_modelled(config, *kind) for kind in track(kinds, "virtual clock")]
    rows = []
    for schedule, speed in product(SCHEDULES, config.speeds):
        chosen = [i for i, kind in enumerate(kinds) if kind[:2] == (schedule, speed)]
        rows.append([
            f"{schedule}, one at speed {speed:g}",
            *(
                _summary([found[i] for i in chosen], key)
                for key in ("samples", "error")
                for found in (real, modelled)
            ),
        ])
    write_results(
        config.output,
        {
            "config": {**asdict(config), "output": str(config.output)},
            "kinds": kinds,
            "real": real,
            "virtual": modelled,
        },
    )
    show(
        f"{WORKERS} workers, {config.budget:g} s, steps of {config.step * 1e3:g} ms, "
        f"sync_every {config.sync_every}, {config.seeds} seeds",
        ["LGRAWA on digits", "samples/s", "virtual", "test error %", "virtual"],
        rows,
    )
    picture = config.output.with_suffix(".png")
    stragglers_picture(list(config.speeds), panels(config, real, modelled), picture)
    print(f"mean and standard error; all results are in {config.output}, the picture is {picture}")


def panels(
    config: Config, real: list[dict[str, float]], modelled: list[dict[str, float]]
) -> dict[str, dict[str, list[Point]]]:
    """What the picture shows: what is measured -> kind of run -> a point for each speed."""
    kinds = list(product(SCHEDULES, config.speeds, range(config.seeds)))

    def line(found: list[dict[str, float]], schedule: str, key: str) -> list[Point]:
        return [
            _point([one for one, kind in zip(found, kinds, strict=True) if kind[:2] == at], key)
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
    mean, error = _point(found, key)
    return f"{mean:.1f} ± {error:.1f}"


def _work(rank: int, config: Config, kinds: list[tuple[str, float, int]], folder: str) -> None:
    torch.set_num_threads(1)
    store = (Path(folder) / "rendezvous").as_uri()
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=WORKERS)
    found = []
    for schedule, speed, seed in track(kinds, "real workers ", disable=rank > 0):
        seconds = config.step / (speed if rank == WORKERS - 1 else 1.0)
        chosen = _settings(config, SCHEDULES[schedule](config.sync_every), seed)
        found.append(_trained(Paced(seconds=seconds), chosen))
    if rank == 0:
        write_text(Path(folder) / "results.json", json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def _modelled(config: Config, schedule: str, speed: float, seed: int) -> dict[str, float]:
    speeds = [1.0] * (WORKERS - 1) + [speed]
    chosen = _settings(config, SCHEDULES[schedule](config.sync_every), seed)
    clock = partial(VirtualClock, config.step, speeds=speeds)
    return _trained(Digits(), replace(chosen, modelled=clock))


def _settings(config: Config, schedule: Schedule, seed: int) -> Settings:
    usual = TrainConfig(task="digits", seed=seed).settings()
    return replace(usual, steps=None, budget=config.budget, schedule=schedule)


def _trained(task: Digits, settings: Settings) -> dict[str, float]:
    """Samples per second of all workers until the last round, and the consensus's error."""
    steps, elapsed = 0.0, 0.0
    for event in train(task, lambda *_: grawa.LGRAWA(), settings):
        if isinstance(event, RoundReport):
            steps, elapsed = steps + float(event.steps_made.sum()), event.elapsed
        elif isinstance(event, Finished):
            ended: Any = event
    return {"samples": steps * settings.batch_size / elapsed, "error": ended.error}


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
