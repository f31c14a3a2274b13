"""What the guard takes from a run when something goes wrong, and what it costs when nothing does.

Run `python benchmarks/guard.py`; `--help` tells the options. Four workers learn `digits` from 400
images, the other 1,397 are the test. Each condition is run with and without the guard, with every
method and seed, all four workers in one process.
"""

import json
import math
import os
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.progress import track

from common import PACKAGES, show
from grawa.errors import UserError
from grawa.lab.cli import names
from grawa.lab.cli.run import strategy_for
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.environment import environment
from grawa.lab.files import write_text
from grawa.lab.train.loop import Event, Finished, train
from grawa.rounds.guard import Guard
from grawa.rounds.report import RoundReport

METHODS = {"local_sgd": "LocalSGD", "uniform": "uniform", "mgrawa": "MGRAWA", "lgrawa": "LGRAWA"}
HAVE_NORMS = ("mgrawa", "lgrawa")
WORKERS = 4
SYNC_EVERY = 32

CONDITIONS: Mapping[str, dict[str, Any]] = {
    "clean": {},
    "wrong labels": {"fault": ("wrong-labels:3",)},
    "wrong labels, two": {"fault": ("wrong-labels:2", "wrong-labels:3")},
    "learning rate x6": {"fault": ("lr-x6:3",)},
    "learning rate x10": {"fault": ("lr-x10:3",)},
    "NaN, once": {"fault": ("nan:3@100",)},
    "times 30, once": {"fault": ("scale-x30:3@100",)},
    "dead, once": {"fault": ("dead:3@100",)},
    "Dirichlet 0.3": {"shards": "dirichlet:0.3"},
    "Dirichlet, probe": {"shards": "dirichlet:0.3", "score": "probe"},
}
"""What goes wrong, with worker 3 unless it says more -> options of `grawa train`."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is run."""

    guard: str = ""
    """Thresholds other than the defaults, such as loss_ratio=1.5,loss_margin=0.05."""
    seeds: int = 6
    """How many."""
    first_seed: int = 0
    """The thresholds were chosen on seeds 100 to 111, the margin after a look at seed 1 too."""
    steps: int = 480
    """Local steps of each worker."""
    lr: float = 0.1
    """Learning rate at the start; it falls to zero with a cosine."""
    batch_size: int = 16
    """Samples per worker and step."""
    jobs: int = os.cpu_count() or 1
    """Runs at a time."""
    markdown: bool = False
    """Whether the table is printed in Markdown as well."""
    output: Path = Path("benchmarks/results/guard.json")
    """Where all values go."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run."""

    condition: str
    method: str
    guard: Guard | None
    seed: int
    asked: Config

    def config(self) -> TrainConfig:
        """The run as `grawa train` would have it."""
        return TrainConfig(
            task="digits:train_size=400",
            strategy=self.method,
            workers=WORKERS,
            sync_every=SYNC_EVERY,
            steps=self.asked.steps,
            batch_size=self.asked.batch_size,
            lr=self.asked.lr,
            seed=self.seed,
            device="cpu",
            **CONDITIONS[self.condition],
        )


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of it."""

    condition: str
    method: str
    guarded: bool
    seed: int
    error: float | None
    """Of the consensus on the test images; `None` if it was not finite, or there was none."""
    failure: str
    """Why there is no error."""
    healthy: tuple[int, int]
    """Worker-rounds of workers without a fault: left out, and all."""
    faulty: tuple[int, int]
    """The same of workers whose fault lasts; or the round after it, where it happens once."""


def run(job: Job) -> Result:
    """Trains once."""
    torch.set_num_threads(1)  # runs share the cores
    config = job.config()
    settings = replace(config.settings(), guard=job.guard)
    task = names.task(config.task)
    events: list[Event] = []
    error, failure = None, ""
    try:
        events.extend(train(task, partial(strategy_for, config), settings))
    except (RuntimeError, ValueError) as stopped:
        failure = type(stopped).__name__
    else:
        finished = events[-1]
        assert isinstance(finished, Finished), "the last event tells the end"
        finite = all(bool(leaf.isfinite().all()) for leaf in finished.consensus.values())
        error, failure = (finished.error, "") if finite else (None, "consensus not finite")
    rounds = [event for event in events if isinstance(event, RoundReport)]
    at = {fault.worker: fault.step for fault in settings.faults}
    return Result(
        condition=job.condition,
        method=job.method,
        guarded=job.guard is not None,
        seed=job.seed,
        error=error,
        failure=failure,
        healthy=_count(rounds, [(worker, None) for worker in range(WORKERS) if worker not in at]),
        faulty=_count(rounds, list(at.items())),
    )


def _count(rounds: Sequence[RoundReport], of: Sequence[tuple[int, int | None]]) -> tuple[int, int]:
    """How often workers were left out; of how many rounds: all, or the first after a step."""
    outs = [
        worker in report.left_out
        for worker, step in of
        for report in rounds
        if step is None or report.round == math.ceil(step / SYNC_EVERY)
    ]
    return sum(outs), len(outs)


def jobs(asked: Config) -> list[Job]:
    """All runs, in the order of the table."""
    return [
        Job(condition=condition, method=method, guard=guard, seed=seed, asked=asked)
        for condition, options in CONDITIONS.items()
        for guard in (None, thresholds(asked.guard))
        for method in (HAVE_NORMS if "score" in options else METHODS)
        for seed in range(asked.first_seed, asked.first_seed + asked.seeds)
    ]


def thresholds(text: str) -> Guard:
    """The guard that is written as `loss_ratio=1.5,loss_margin=0.05`; what is not said stays."""
    pairs = [part.partition("=") for part in text.split(",") if part]
    try:
        options = {name: float(value) for name, _, value in pairs}
    except ValueError:
        raise UserError(
            f"write thresholds as loss_ratio=1.5,loss_margin=0.05, got {text!r}"
        ) from None
    unknown = set(options) - set(asdict(Guard()))
    if unknown:
        known = ", ".join(asdict(Guard()))
        raise UserError(f"a guard has no option {min(unknown)!r}; it has {known}")
    return Guard(**options)


def main(asked: Config) -> None:
    """Runs everything, writes and prints."""
    todo = jobs(asked)
    with ProcessPoolExecutor(asked.jobs, get_context("spawn")) as pool:
        found = list(track(pool.map(run, todo), "training", total=len(todo)))
    results = {
        "environment": environment(PACKAGES),
        "config": {**asdict(asked), "output": str(asked.output)},
        "guard": asdict(thresholds(asked.guard)),
        "runs": [asdict(result) for result in found],
    }
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    write_text(asked.output, json.dumps(results, indent=1) + "\n")
    columns = ["condition", "guard", *METHODS.values(), "healthy", "faulty"]
    rows = table(found)
    show(f"Test error in percent, mean ± standard error of {asked.seeds} seeds", columns, rows)
    if asked.markdown:
        rule = ["---", "---", *["---:"] * (len(columns) - 2)]
        print("\n".join("| " + " | ".join(row) + " |" for row in [columns, rule, *rows]))
    print(
        "healthy, faulty: share of the worker-rounds in which they were left out of the center, "
        f"over all methods.\nAll values are in {asked.output}"
    )


def table(found: Sequence[Result]) -> list[list[str]]:
    """Two rows for each condition; the last columns hold fractions of worker-rounds left out."""
    rows = []
    for condition in CONDITIONS:
        for guarded in (False, True):
            those = [r for r in found if r.condition == condition and r.guarded == guarded]
            cells = [cell([r for r in those if r.method == method]) for method in METHODS]
            outs = [_fraction(r.healthy for r in those), _fraction(r.faulty for r in those)]
            rows.append([condition, "on" if guarded else "off", *cells, *outs])
    return rows


def cell(those: Sequence[Result]) -> str:
    """The mean error of some seeds in percent, its standard error, and what failed."""
    errors = [100.0 * r.error for r in those if r.error is not None]
    failed = f"diverged {len(those) - len(errors)}/{len(those)}"
    if not errors:
        return failed if those else "-"
    deviation = statistics.stdev(errors) if len(errors) > 1 else 0.0
    mean = f"{statistics.mean(errors):.1f} ± {deviation / math.sqrt(len(errors)):.1f}"
    return mean if len(errors) == len(those) else f"{mean}, {failed}"


def _fraction(counts: Iterable[tuple[int, int]]) -> str:
    out, of = (sum(column) for column in zip(*counts, strict=True))
    return f"{out / of:.1%}" if of else "-"


if __name__ == "__main__":
    try:
        main(tyro.cli(Config, description=__doc__))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
