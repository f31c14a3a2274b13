"""Measures whether options that save time cost accuracy, compared with plain rounds.

Four workers, all in one process, learn `digits` with the defaults of `grawa train`, or `text` with
AdamW. Each variant is run with the same seeds as the plain one, so with the same data, order and
initial weights, and differences are paired by seed.
"""

import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Literal

from command import Benchmark, Results
from common import show
from grawa.errors import UserError
from grawa.lab.cli import names
from grawa.lab.cli.process import strategy_for
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.train.events import Finished
from grawa.lab.train.loop import train
from outer_momentum import TASKS
from processes import one_by_one
from samples import Sample, Samples

PLAIN = "blocking, every 32, float32"

VARIANTS: Mapping[str, dict[str, Any]] = {
    PLAIN: {},
    "overlap 16": {"overlap_steps": 16},
    "overlap 28": {"overlap_steps": 28},
    "4 fragments": {"fragments": 4},
    "4 fragments, overlap 7": {"fragments": 4, "overlap_steps": 7},
    "bf16": {"comm_dtype": "bf16"},
    "int8": {"comm_dtype": "int8"},
    "int8, overlap 28": {"comm_dtype": "int8", "overlap_steps": 28},
    "topk 1/32, 2 bits": {"comm_dtype": "topk:fraction=0.03125"},
    "topk 1/8, 2 bits": {"comm_dtype": "topk:fraction=0.125"},
    "topk 1/4, 2 bits": {"comm_dtype": "topk:fraction=0.25"},
    "topk 1/4, 1 bit": {"comm_dtype": "topk:fraction=0.25:bits=1"},
    "all, 2 bits": {"comm_dtype": "topk:fraction=1:bits=2"},
    "shared-count": {"schedule": "shared-count"},
}
"""Variant -> options of `grawa train`."""

_OF_TASK: Mapping[str, dict[str, Any]] = {"digits": {}, "text": TASKS["text"]}
_MEASURED = {"digits": ("Test error, %,", 2), "text": ("Bits per byte", 3)}
"""What it is called, and digits after its decimal point."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options."""

    seeds: int = 8
    """Number of seeds, from 0."""
    strategy: str = "lgrawa"
    """The method."""
    score: str | None = None
    """What its workers report; by default as in `grawa train`."""
    only: tuple[str, ...] = ()
    """Variants that are compared with plain rounds; by default all."""
    task: Literal["digits", "text"] = "digits"
    """What is learnt."""
    train_size: int = 1200
    """Training images of digits; the rest of the 1,797 are test images."""
    steps: int | None = None
    """Local steps of each worker; by default those of `grawa train`."""
    jobs: int = os.cpu_count() or 1
    """Runs at a time."""


TOY = Config(seeds=2, train_size=100, steps=33, jobs=1)


def error_of(config: Config, run: tuple[str, int]) -> float:
    """Of the consensus at the end: wrong answers in percent, or bits per byte."""
    variant, seed = run
    asked = TrainConfig(
        strategy=config.strategy,
        score=config.score,
        processes=1,
        steps=config.steps,
        seed=seed,
        device="cpu",
        stack_workers="off",  # the same digits each time
        **{"task": f"digits:train_size={config.train_size}", **_OF_TASK[config.task]},
        **VARIANTS[variant],
    )
    *_, last = train(names.task(asked.task), partial(strategy_for, asked), asked.settings())
    assert isinstance(last, Finished), "the last event is the end"
    return last.error * (100.0 if config.task == "digits" else 1.0)


def check(config: Config) -> None:
    """Refuses variants that there are not."""
    unknown = [name for name in config.only if name not in VARIANTS]
    if unknown:
        known = ", ".join(map(repr, VARIANTS))
        raise UserError(f"there is no variant {unknown[0]!r}; there are {known}")


def measure(config: Config, samples: Samples) -> None:
    """Trains every variant with every seed."""
    chosen = [name for name in VARIANTS if name == PLAIN or name in config.only or not config.only]
    runs = [(variant, seed) for seed, variant in product(range(config.seeds), chosen)]
    trained = one_by_one(partial(error_of, config), runs, config.jobs, "training")
    for (variant, seed), error in trained:
        samples.add(variant=variant, seed=seed, error=error)


def merge(_: Config, samples: Sequence[Sample]) -> Results:
    """Variant -> errors, ordered by seed."""
    errors: dict[str, list[float]] = {}
    for sample in samples:
        errors.setdefault(sample["variant"], []).append(sample["error"])
    return {"errors": errors}


def table(config: Config, results: Results) -> None:
    """Prints errors and differences."""
    errors = results["errors"]
    what, digits = _MEASURED[config.task]
    rows = [
        [name, *paired_row(own, errors[PLAIN], is_plain=name == PLAIN, digits=digits)]
        for name, own in errors.items()
    ]
    show(
        f"{what} of {config.strategy} on {config.task}, {config.seeds} seeds",
        ["rounds", "error", "difference, paired", "standard errors"],
        rows,
    )


def paired_row(
    own: Sequence[float], plain: Sequence[float], *, is_plain: bool, digits: int = 2
) -> list[str]:
    """Cells of a table: the mean, the paired difference to the plain variant, and how sure it is.

    Args:
        own: results, by seed.
        plain: those of the plain variant, for the same seeds.
        is_plain: whether it is this one.
        digits: after the decimal point.
    """
    differences = [a - b for a, b in zip(own, plain, strict=False)]  # a run may be interrupted
    mean, error = statistics.mean(differences), _standard_error(differences)
    return [
        f"{statistics.mean(own):.{digits}f} ± {_standard_error(own):.{digits}f}",
        "" if is_plain else f"{mean:+.{digits}f} ± {error:.{digits}f}",
        "" if is_plain or not error else f"{mean / error:+.1f}",
    ]


def _standard_error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


BENCHMARK = Benchmark(
    name="paired",
    text=__doc__,
    takes="2 minutes of two cores",
    config=Config(),
    toy=TOY,
    measure=measure,
    merge=merge,
    show=table,
    check=check,
)
main = BENCHMARK.run

if __name__ == "__main__":
    main()
