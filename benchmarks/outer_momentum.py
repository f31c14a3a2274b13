"""Measures which outer momentum suits which interval between rounds.

Four workers, all in one process, learn `digits` (SGD with momentum) and `text` (AdamW) with DiLoCo.
Each outer learning rate and momentum is run with each interval and the same seeds, so with the same
data, order and initial weights; an outer learning rate of 1 without momentum is LocalSGD, to which
the others are compared by seed. The number of local steps is the same for all, and so is the inner
learning rate, which suits LocalSGD.
"""

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

from command import Benchmark, Results
from common import show
from grawa.lab.cli import names
from grawa.lab.cli.process import strategy_for
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.train.events import Finished
from grawa.lab.train.loop import train
from pictures import GREY, PALETTE, save
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
    """Its learning rates."""
    restart_every: tuple[int, ...] = (3,)
    """After how many rounds the largest momentum is restarted as well, with each learning rate."""
    steps: int = 512
    """Local steps of each worker on text; twice as many on digits."""
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


def outers(config: Config) -> list[str]:
    """The outer optimizers: learning rate, momentum and, if there is one, interval of restarts."""
    plain = [f"{lr:g} / {m:g}" for lr, m in product(config.lrs, config.momenta)]
    most = max(config.momenta)
    pairs = product(config.lrs, config.restart_every)
    return list(
        dict.fromkeys([_LOCAL_SGD, *plain, *(f"{lr:g} / {most:g} / {k}" for lr, k in pairs)])
    )


def jobs(config: Config) -> list[Job]:
    """All runs."""
    found = []
    for task, every in product(config.tasks, config.sync_every):
        steps = config.steps * (2 if task == "digits" else 1)
        if steps >= 4 * every:
            found += [
                Job(task=task, every=every, outer=outer, seed=seed, steps=steps)
                for seed, outer in product(range(config.seeds), outers(config))
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
    """Trains with every outer optimizer, interval and seed."""
    for job, error in one_by_one(error_of, jobs(config), config.jobs, "training"):
        samples.add(task=job.task, every=job.every, outer=job.outer, seed=job.seed, error=error)


def merge(_: Config, samples: Sequence[Sample]) -> Results:
    """Task -> interval -> outer optimizer -> errors, ordered by seed."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for s in samples:
        own = found.setdefault(s["task"], {}).setdefault(str(s["every"]), {})
        own.setdefault(s["outer"], []).append(s["error"])
    return {"errors": found}


def tables(config: Config, results: Results) -> None:
    """Prints errors, and their differences from LocalSGD's."""
    for task, intervals in results["errors"].items():
        listed = [
            outer for outer in outers(config) if all(outer in own for own in intervals.values())
        ]
        unit = "test error, %" if task == "digits" else "bits per byte"
        show(
            f"{task}: {unit}, and minus LocalSGD's, paired, {config.seeds} seeds",
            ["outer lr / momentum / restart", *(f"every {every}" for every in intervals)],
            [[outer, *(_cell(own, outer) for own in intervals.values())] for outer in listed],
        )


def _cell(own: Mapping[str, Sequence[float]], outer: str) -> str:
    mean = statistics.mean(own[outer])
    if outer == _LOCAL_SGD:
        return f"{mean:.2f}"
    difference, error = _paired(own, outer)
    return f"{mean:.2f} ({difference:+.2f} ± {error:.2f})"


def _paired(own: Mapping[str, Sequence[float]], outer: str) -> tuple[float, float]:
    """The mean difference from LocalSGD, and its standard error; a run may be interrupted."""
    pairs = zip(own[outer], own[_LOCAL_SGD], strict=False)
    differences = [a - b for a, b in pairs]
    spread = statistics.stdev(differences) if len(differences) > 1 else 0.0
    return statistics.mean(differences), spread / len(differences) ** 0.5


def picture(config: Config, results: Results, folder: Path) -> None:
    """Differences from LocalSGD over the momentum, a line for each interval."""
    errors = results["errors"]
    rows, columns = len(errors), len(config.lrs)
    size = (4.6 * columns, 3.6 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, sharey="row", squeeze=False)
    for row, (task, intervals) in zip(axes, errors.items(), strict=True):
        for axis, lr in zip(row, config.lrs, strict=True):
            for i, (every, own) in enumerate(intervals.items()):
                points = [_paired(own, f"{lr:g} / {momentum:g}") for momentum in config.momenta]
                means, spreads = zip(*points, strict=True)
                axis.errorbar(
                    config.momenta, means, spreads, marker="o", capsize=2,
                    color=PALETTE[i % len(PALETTE)], label=f"a round every {every} steps",
                )  # fmt: skip
            axis.axhline(0.0, color=GREY, linestyle="--", linewidth=1)
            axis.set(title=f"{task}, outer lr {lr:g}", xlabel="outer momentum")
            axis.spines[["top", "right"]].set_visible(False)
        unit = "error, points" if task == "digits" else "bits per byte"
        row[0].set_ylabel(f"{unit}, minus LocalSGD's")
    axes[0, 0].legend(frameon=False)
    figure.tight_layout()
    save(figure, folder / "outer_momentum.png")


BENCHMARK = Benchmark(
    name="outer_momentum",
    text=__doc__,
    takes="20 minutes of one core",
    config=Config(),
    toy=TOY,
    measure=measure,
    merge=merge,
    show=tables,
    draw=picture,
)
main = BENCHMARK.run

if __name__ == "__main__":
    main()
