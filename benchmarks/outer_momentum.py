"""Measures which outer momentum suits which interval between rounds.

Four workers, all in one process, learn `digits` (SGD with momentum) and `text` (AdamW) with DiLoCo.
Each outer learning rate and momentum is run with each interval and the same seeds, so with the same
data, order and initial weights; an outer learning rate of 1 without momentum is LocalSGD, to which
the others are compared by seed. The number of local steps is the same for all, and so is the inner
learning rate, which suits LocalSGD. With an outer learning rate of 1 - momentum, tried on digits
alone, the center moves as far as LocalSGD's in the long run.
"""

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from command import Benchmark, Results, check_same_options
from common import show
from grawa.lab.cli import names
from grawa.lab.cli.process import strategy_for
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.report.colours import numbered
from grawa.lab.train.events import Finished
from grawa.lab.train.loop import train
from pictures import legend_of_all, level_line, write_page
from processes import one_by_one
from samples import Sample, Samples

TASKS: Mapping[str, dict[str, Any]] = {
    "digits": {"task": "digits:train_size=400", "lr": 0.1, "batch_size": 16},
    "text": {
        "task": "text:model=transformer_small:context=32:train_bytes=300000:test_bytes=8000",
        "optimizer": "adamw",
        "lr": 0.004,
        "batch_size": 4,
    },
}
"""Options of `grawa train`."""

_LOCAL_SGD = "1 / 0"


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options."""

    tasks: tuple[str, ...] = tuple(TASKS)
    sync_every: tuple[int, ...] = (4, 16, 64, 256)
    """Local steps between rounds; those with fewer than four rounds in a run are left out."""
    momenta: tuple[float, ...] = (0.0, 0.3, 0.6, 0.8, 0.9)
    """Of the outer optimizer."""
    lrs: tuple[float, ...] = (0.7, 1.0)
    """Its learning rates; on text the first one only, since that takes long."""
    restart_every: tuple[int, ...] = (3,)
    """After how many rounds the largest momentum is restarted as well, with each learning rate."""
    steps: int = 256
    """Local steps of each worker on text; four times as many on digits."""
    seeds: int = 5
    """Number of seeds, from 0."""
    jobs: int = os.cpu_count() or 1
    """Runs at a time."""


TOY = Config(
    tasks=("digits",), sync_every=(4,), momenta=(0.0, 0.9), lrs=(1.0,), steps=8, seeds=2, jobs=1
)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run."""

    task: str
    every: int
    outer: str
    seed: int
    steps: int

    def config(self) -> TrainConfig:
        """The options of the run, as for `grawa train`."""
        lr, momentum, *restart = self.outer.split(" / ")
        strategy = f"diloco:outer.lr={lr}:outer.momentum={momentum}"
        if restart:
            strategy += f":outer.restart_every={restart[0]}"
        return TrainConfig(
            strategy=strategy,
            workers=4,
            processes=1,
            sync_every=self.every,
            steps=self.steps,
            seed=self.seed,
            device="cpu",
            stack_workers="on",
            **TASKS[self.task],
        )


def outers(config: Config, task: str) -> list[str]:
    """A task's outer optimizers: learning rate, momentum and, if there is one, restarts."""
    lrs = config.lrs[:1] if task == "text" else config.lrs
    plain = [f"{lr:g} / {m:g}" for lr, m in product(lrs, config.momenta)]
    pairs = product(lrs, config.restart_every)
    restarted = [f"{lr:g} / {max(config.momenta):g} / {k}" for lr, k in pairs]
    as_far = [] if task == "text" else [f"{1 - m:g} / {m:g}" for m in config.momenta]
    return list(dict.fromkeys([_LOCAL_SGD, *plain, *restarted, *as_far]))


def jobs(config: Config) -> list[Job]:
    """All runs."""
    found = []
    for task in config.tasks:
        steps = config.steps * (4 if task == "digits" else 1)
        several = (range(config.seeds), config.sync_every, outers(config, task))
        found += [
            Job(task=task, every=every, outer=outer, seed=seed, steps=steps)
            for seed, every, outer in product(*several)
            if steps >= 4 * every
        ]
    return found


def error_of(job: Job) -> float:
    """Of the consensus at the end: wrong answers in percent, or bits per byte."""
    asked = job.config()
    task = names.task(asked.task)
    *_, last = train(task, partial(strategy_for, asked), asked.settings())
    assert isinstance(last, Finished), "the last event is the end"
    return last.error * (100.0 if job.task == "digits" else 1.0)


def measure(config: Config, samples: Samples) -> None:
    """Trains with every outer optimizer, interval and seed of which there is no sample yet."""
    _, found, _ = samples.read()
    known = [(s["task"], s["every"], s["outer"], s["seed"]) for s in found]
    missing = [j for j in jobs(config) if (j.task, j.every, j.outer, j.seed) not in known]
    for job, error in one_by_one(error_of, missing, config.jobs, "training"):
        samples.add(task=job.task, every=job.every, outer=job.outer, seed=job.seed, error=error)


def resume(
    config: Config, earlier: Config, samples: Sequence[Sample]
) -> tuple[Config, Sequence[Sample]]:
    """Keeps the samples of a run with the same options."""
    check_same_options(config, earlier, but="jobs")
    return config, samples


def merge(_: Config, samples: Sequence[Sample]) -> Results:
    """Task -> interval -> outer optimizer -> errors, ordered by seed."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for s in sorted(samples, key=lambda s: s["seed"]):
        own = found.setdefault(s["task"], {}).setdefault(str(s["every"]), {})
        own.setdefault(s["outer"], []).append(s["error"])
    return {"errors": found}


def tables(config: Config, results: Results) -> None:
    """Prints errors, and their differences from LocalSGD's."""
    for task, intervals in results["errors"].items():
        unit = "test error, %" if task == "digits" else "bits per byte"
        show(
            f"{task}: {unit} of LocalSGD, and the others' minus it, paired, {config.seeds} seeds",
            ["outer lr / momentum / restart", *(f"every {every}" for every in intervals)],
            [
                [outer, *(_cell(own, outer) for own in intervals.values())]
                for outer in outers(config, task)
            ],
        )


def _cell(own: Mapping[str, Sequence[float]], outer: str) -> str:
    if not own.get(outer):  # the run was interrupted
        return ""
    if outer == _LOCAL_SGD:
        return f"{statistics.mean(own[outer]):.2f}"
    return "{:+.2f} ± {:.2f}".format(*_paired(own, outer))


def _paired(own: Mapping[str, Sequence[float]], outer: str) -> tuple[float, float]:
    """The mean difference from LocalSGD, and its standard error; a run may be interrupted."""
    pairs = zip(own[outer], own[_LOCAL_SGD], strict=False)
    differences = [a - b for a, b in pairs]
    spread = statistics.stdev(differences) if len(differences) > 1 else 0.0
    return statistics.mean(differences), spread / len(differences) ** 0.5


def picture(config: Config, results: Results, folder: Path) -> None:
    """Differences from LocalSGD over the momentum, a line for each interval."""
    errors, lr = results["errors"], config.lrs[0]

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, len(errors), squeeze=False)[0]
        for axis, (task, intervals) in zip(axes, errors.items(), strict=True):
            for i, (every, own) in enumerate(intervals.items()):
                points = [_paired(own, f"{lr:g} / {momentum:g}") for momentum in config.momenta]
                means, spreads = zip(*points, strict=True)
                line, label = numbered(i).line, f"a round every {every} steps"
                axis.errorbar(config.momenta, means, spreads, capsize=3, label=label, **line)
            unit = "error, points" if task == "digits" else "bits per byte"
            axis.set(title=task, xlabel="outer momentum", ylabel=f"{unit}, minus LocalSGD's")
            level_line(axis, 0.0, "LocalSGD")
        legend_of_all(figure, axes, 3)

    title = f"What momentum of the outer steps costs, outer learning rate {lr:g}"
    write_page(folder / "outer_momentum.png", title, 4.4, draw)


BENCHMARK = Benchmark(
    name="outer_momentum",
    text=__doc__,
    takes="10 minutes of two cores",
    config=Config(),
    toy=TOY,
    measure=measure,
    merge=merge,
    show=tables,
    draw=picture,
    resume=resume,
)
main = BENCHMARK.run

if __name__ == "__main__":
    main()
