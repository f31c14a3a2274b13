"""Measures how much the guard helps if a worker goes wrong, and what it costs otherwise.

Four workers learn `digits` from 400 images; the other 1,397 are test images. Each condition is run
with and without the guard, with every method and seed, with all four workers in one process.
"""

import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from command import Benchmark, Results
from common import show
from grawa.errors import DivergedError, UserError
from grawa.lab.cli import names
from grawa.lab.cli.process import strategy_for
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.train.events import Event, Finished
from grawa.lab.train.loop import train
from grawa.rounds.guard import Guard
from grawa.rounds.report import RoundReport
from processes import one_by_one
from samples import Sample, Samples

METHODS = {"local_sgd": "LocalSGD", "uniform": "uniform", "mgrawa": "MGRAWA", "lgrawa": "LGRAWA"}
HAVE_NORMS = ("mgrawa", "lgrawa")
WORKERS = 4

CONDITIONS: Mapping[str, dict[str, Any]] = {
    "clean": {},
    "wrong labels": {"fault": ("wrong-labels:3",)},
    "wrong labels, two": {"fault": ("wrong-labels:2", "wrong-labels:3")},
    "learning rate x6": {"fault": ("lr-x6:3",)},
    "learning rate x10": {"fault": ("lr-x10:3",)},
    "NaN, once": {"fault": ("nan:3@STEP",)},
    "times 30, once": {"fault": ("scale-x30:3@STEP",)},
    "dead, once": {"fault": ("dead:3@STEP",)},
    "Dirichlet 0.3": {"shards": "dirichlet:0.3"},
    "Dirichlet, probe": {"shards": "dirichlet:0.3", "score": "probe"},
}
"""Condition, a fault of worker 3 unless it names others -> options of `grawa train`. STEP is
replaced by `--fault-step`."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options."""

    guard: str = ""
    """Thresholds that replace the defaults, such as loss_ratio=1.5,loss_margin=0.05."""
    seeds: int = 6
    """Number of seeds."""
    first_seed: int = 0
    """The first seed. The thresholds were chosen on seeds 100 to 111; for the margin, seed 1 was
    used too."""
    steps: int = 480
    """Local steps of each worker."""
    sync_every: int = 32
    """Local steps between rounds."""
    lr: float = 0.1
    """Initial learning rate; it falls to zero with a cosine."""
    batch_size: int = 16
    """Samples per worker and step."""
    fault_step: int = 100
    """The local step before which one-time faults happen."""
    jobs: int = os.cpu_count() or 1
    """Runs at a time."""
    markdown: bool = False
    """Whether to print the table in Markdown as well."""


TOY = Config(seeds=1, steps=9, sync_every=4, fault_step=6, jobs=1)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run."""

    condition: str
    method: str
    guard: Guard | None
    seed: int
    asked: Config

    def config(self) -> TrainConfig:
        """The options of the run, as for `grawa train`."""
        usual = {"score": "training"} if self.method in HAVE_NORMS else {}
        return TrainConfig(
            task="digits:train_size=400",
            strategy=self.method,
            workers=WORKERS,
            sync_every=self.asked.sync_every,
            steps=self.asked.steps,
            batch_size=self.asked.batch_size,
            lr=self.asked.lr,
            seed=self.seed,
            device="cpu",
            stack_workers="off",  # the same digits each time
            **{**usual, **self._condition()},
        )

    def _condition(self) -> dict[str, Any]:
        options = CONDITIONS[self.condition]
        at = str(self.asked.fault_step)
        return {**options, "fault": tuple(f.replace("STEP", at) for f in options.get("fault", ()))}


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a run."""

    condition: str
    method: str
    guarded: bool
    seed: int
    error: float | None
    """Error of the consensus on the test images; `None` if the run failed."""
    failure: str
    """Why it failed."""
    healthy: tuple[int, int]
    """Worker-rounds of workers without a fault: the number left out, and the total."""
    faulty: tuple[int, int]
    """The same for workers with a lasting fault; for a one-time fault, only the round after it."""


def run(job: Job) -> Result:
    """Trains once."""
    config = job.config()
    settings = replace(config.settings(), guard=job.guard)
    task = names.task(config.task)
    events: list[Event] = []
    error, failure = None, ""
    try:
        events.extend(train(task, partial(strategy_for, config), settings))
    except DivergedError as stopped:
        failure = type(stopped).__name__
    else:
        finished = events[-1]
        assert isinstance(finished, Finished), "the last event is the end"
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
        healthy=_count(rounds, dict.fromkeys(set(range(WORKERS)) - set(at)), config.sync_every),
        faulty=_count(rounds, at, config.sync_every),
    )


def _count(
    rounds: Sequence[RoundReport], of: Mapping[int, int | None], sync_every: int
) -> tuple[int, int]:
    """How often workers were left out, of how many rounds: of all, or the first after a step."""
    outs = [
        worker in report.left_out
        for worker, step in of.items()
        for report in rounds
        if step is None or report.round == math.ceil(step / sync_every)
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
    """A guard with the thresholds in `loss_ratio=1.5,loss_margin=0.05`, and defaults for others."""
    pairs = [part.partition("=") for part in text.split(",") if part]
    try:
        options: dict[str, Any] = {name: float(value) for name, _, value in pairs}
    except ValueError:
        raise UserError(
            f"write thresholds as loss_ratio=1.5,loss_margin=0.05, got {text!r}"
        ) from None
    unknown = set(options) - set(asdict(Guard()))
    if unknown:
        known = ", ".join(asdict(Guard()))
        raise UserError(f"a guard has no option {min(unknown)!r}; it has {known}")
    return Guard(**options)


def measure(asked: Config, samples: Samples) -> None:
    """Trains under all conditions."""
    for _, result in one_by_one(run, jobs(asked), asked.jobs, "training"):
        samples.add(**asdict(result))


def merge(asked: Config, samples: Sequence[Sample]) -> Results:
    """All runs, with the guard's thresholds."""
    return {"guard": asdict(thresholds(asked.guard)), "runs": samples}


def tables(asked: Config, results: Results) -> None:
    """Prints errors, and how often workers were left out."""
    columns = ["condition", "guard", *METHODS.values(), "healthy", "faulty"]
    rows = table([Result(**one) for one in results["runs"]])
    show(f"Test error in percent, mean ± standard error of {asked.seeds} seeds", columns, rows)
    if asked.markdown:
        rule = ["---", "---", *["---:"] * (len(columns) - 2)]
        print("\n".join("| " + " | ".join(row) + " |" for row in [columns, rule, *rows]))
    print(
        "healthy, faulty: share of the worker-rounds in which they were left out of the center, "
        "over all methods."
    )


def table(found: Sequence[Result]) -> list[list[str]]:
    """Two rows for each condition; the last columns are fractions of worker-rounds left out."""
    rows = []
    for condition in CONDITIONS:
        for guarded in (False, True):
            those = [r for r in found if r.condition == condition and r.guarded == guarded]
            cells = [cell([r for r in those if r.method == method]) for method in METHODS]
            outs = [_fraction(r.healthy for r in those), _fraction(r.faulty for r in those)]
            rows.append([condition, "on" if guarded else "off", *cells, *outs])
    return rows


def cell(those: Sequence[Result]) -> str:
    """The mean error over seeds in percent, its standard error, and the number of failed runs."""
    errors = [100.0 * r.error for r in those if r.error is not None]
    failed = f"diverged {len(those) - len(errors)}/{len(those)}"
    if not errors:
        return failed if those else "-"
    deviation = statistics.stdev(errors) if len(errors) > 1 else 0.0
    mean = f"{statistics.mean(errors):.1f} ± {deviation / math.sqrt(len(errors)):.1f}"
    return mean if len(errors) == len(those) else f"{mean}, {failed}"


def _fraction(counts: Iterable[tuple[int, int]]) -> str:
    found = list(counts)
    out, of = sum(out for out, _ in found), sum(of for _, of in found)
    return f"{out / of:.1%}" if of else "-"


BENCHMARK = Benchmark(
    name="guard",
    text=__doc__,
    takes="4 minutes of a core",
    config=Config(),
    toy=TOY,
    measure=measure,
    merge=merge,
    show=tables,
    check=lambda asked: thresholds(asked.guard),
)
main = BENCHMARK.run

if __name__ == "__main__":
    main()
