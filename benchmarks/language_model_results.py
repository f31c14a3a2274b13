"""What the runs of `language_model.py` show: learning rates, and differences to the baseline."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from grawa.lab.cli import methods
from grawa.lab.report.statistics import Difference, Mean, holm, mean_of, paired_difference
from language_model_config import Config
from samples import Sample

Where = tuple[str, int]
"""Quality, and local steps between rounds."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A method at a learning rate, at one quality and interval.

    Attributes:
        where: quality and interval.
        name: the method's name in tables.
        method: with its options.
        lr: the learning rate.
        runs: that count, by seed; also those that diverged.
        difference: of bits per byte to the baseline's; `None` for the baseline, and if no seed has
            both.
        corrected: the difference's p-value, corrected for all comparisons.
    """

    where: Where
    name: str
    method: str
    lr: float
    runs: Sequence[Sample]
    difference: Difference | None = None
    corrected: float = math.nan

    @property
    def ends(self) -> dict[int, float]:
        """Seed -> bits per byte at the end, of runs that did not diverge."""
        return {run["seed"]: run["final"] for run in self.runs if run["final"] is not None}

    @property
    def mean(self) -> Mean | None:
        """Of the ends; `None` without any."""
        return mean_of(list(self.ends.values())) if self.ends else None

    def plain(self) -> dict[str, Any]:
        """For the file of results."""
        mean, apart = self.mean, self.difference
        return {
            "quality": self.where[0],
            "sync_every": self.where[1],
            "name": self.name,
            "method": self.method,
            "lr": self.lr,
            "mean": mean and mean.mean,
            "standard_error": mean and _finite(mean.error),
            "difference": apart and apart.mean,
            "interval": apart and [_finite(apart.low), _finite(apart.high)],
            "p": apart and _finite(apart.p),
            "p_holm": _finite(self.corrected),
            "runs": self.runs,
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def names_of(config: Config) -> dict[str, str]:
    """Method with its options -> its name in tables."""
    return {method: name for name, method in methods.named(config.methods).items()}


def choose(config: Config, samples: Sequence[Sample]) -> dict[Where, dict[str, float]]:
    """The learning rate of each method with the smallest mean error at the end, on tuning seeds.

    A rate at which a run diverged is not chosen. Without tuning it is the first rate.

    Args:
        config: the options.
        samples: of all runs.

    Returns:
        Quality and interval -> method -> rate.
    """
    ends: dict[tuple[Where, str, float], list[float]] = {}
    for sample in samples:
        if sample["what"] == "tune":
            key = _where(sample), sample["method"], sample["lr"]
            ends.setdefault(key, []).append(
                math.inf if sample["final"] is None else sample["final"]
            )
    return {
        (quality, every): {
            method: min(
                config.all_rates(),
                key=lambda rate: fmean(ends.get(((quality, every), method, rate), [math.inf])),
            )
            for method in names_of(config)
        }
        for quality in config.quality
        for every in config.sync_every
    }


def _where(sample: Sample) -> Where:
    return sample["quality"], sample["sync_every"]


def rows_of(config: Config, samples: Sequence[Sample]) -> list[Row]:
    """All rows of the tables, in the order of the options."""
    chosen = choose(config, samples)
    rows: list[Row] = []
    for where, rates in chosen.items():
        for method, name in names_of(config).items():
            for lr in (rates[method],) if config.tune else config.all_rates():
                runs = [
                    s for s in samples
                    if (s["what"], _where(s), s["method"], s["lr"]) == ("run", where, method, lr)
                ]  # fmt: skip
                runs.sort(key=lambda run: run["seed"])
                rows.append(Row(where=where, name=name, method=method, lr=lr, runs=runs))
    return _compared(config, [row for row in rows if row.runs])


def _compared(config: Config, rows: Sequence[Row]) -> list[Row]:
    """The rows with their differences to the baseline."""

    def facing(row: Row) -> tuple[Where, float | None]:
        return row.where, None if config.tune else row.lr

    base = {facing(row): row for row in rows if row.name == config.baseline}
    apart = [
        None if row.name == config.baseline else _difference(row, base.get(facing(row)))
        for row in rows
    ]
    corrected = holm([math.nan if each is None else each.p for each in apart])
    return [
        replace(row, difference=each, corrected=p)
        for row, each, p in zip(rows, apart, corrected, strict=True)
    ]


def _difference(row: Row, base: Row | None) -> Difference | None:
    own, other = row.ends, {} if base is None else base.ends
    seeds = sorted(own.keys() & other.keys())
    if not seeds:
        return None
    return paired_difference([own[seed] for seed in seeds], [other[seed] for seed in seeds])


def weights_by_kind(row: Row) -> dict[str, tuple[float, float]]:
    """What workers read -> their mean weight, in parts of an equal one, and how often left out."""
    weights: dict[str, list[float]] = {}
    outs: dict[str, list[float]] = {}
    for run in row.runs:
        for worker, kind in enumerate(run["kinds"]):
            own = [len(run["kinds"]) * each[worker] for each in run["weights"] if each is not None]
            weights.setdefault(kind, []).extend(own)
            outs.setdefault(kind, []).append(run["left_out"][worker] / max(1, len(run["weights"])))
    return {
        kind: (fmean(own) if own else math.nan, fmean(outs[kind])) for kind, own in weights.items()
    }
