"""The flatness at the end of a study's runs."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grawa.lab.experiments.flatness import CONSENSUS
from grawa.lab.experiments.study import Study
from grawa.lab.experiments.trial import Result
from grawa.lab.report.statistics import Difference, holm, paired_difference

_LONG = 1e6
"""From here on, ratios are written with an exponent."""

Read = Callable[[Mapping[str, Any]], float | None]
"""Reads a number from a trial's measurements; `None` if it is missing."""


def _model(name: str) -> Read:
    def read(found: Mapping[str, Any]) -> float | None:
        entry = found["models"][CONSENSUS].get(name)
        value: float | None = entry["value"] if isinstance(entry, dict) else entry
        return value

    return read


def _rise(radius: float) -> Read:
    def read(found: Mapping[str, Any]) -> float | None:
        rise: float | None = found["models"][CONSENSUS]["sharpness"].get(str(radius))
        return rise

    return read


def _eigenvalue(found: Mapping[str, Any]) -> float | None:
    many = found["models"][CONSENSUS]["eigenvalues"]
    largest: float | None = many[0]["value"] if many else None
    return largest


def _valley(found: Mapping[str, Any]) -> float | None:
    width: float | None = found["valley"]["inverse_mean"] if found["valley"] else None
    return width


def measures_of(study: Study) -> dict[str, Read]:
    """The measures of sharpness at the end of a run; claims use the first one.

    Args:
        study: a study that measures flatness.

    Returns:
        Name -> how to read it.
    """
    assert study.flatness is not None, "the study does not measure flatness"
    curved = {
        "trace": _model("trace"),
        "trace / loss": _model("trace_over_loss"),
        "eigenvalue": _eigenvalue,
    }
    return {
        **(curved if study.flatness.eigenvalues else {}),
        **{f"rise at {radius:g}": _rise(radius) for radius in reversed(study.flatness.radii)},
        "gradient norm": _model("gradient_norm"),
        "inverse mean valley": _valley,
    }


@dataclass(frozen=True, kw_only=True)
class Flat:
    """An arm's measurements under a condition.

    Attributes:
        arm: its name.
        condition: its name.
        values: measure -> seed -> value, for seeds that have one.
        ratio: of the first measure to the baseline's, as a difference of logarithms; `None` for the
            baseline, and if no seed has both.
        corrected: its p-value, corrected for all comparisons of the study.
    """

    arm: str
    condition: str
    values: Mapping[str, Mapping[int, float]]
    ratio: Difference | None
    corrected: float = math.nan


def flats_of(study: Study, results: Sequence[Result]) -> list[Flat]:
    """The measurements of every arm under every condition, as far as there are some.

    Args:
        study: the study.
        results: of its trials.

    Returns:
        In the order of conditions and arms; none if the study does not measure flatness.
    """
    if study.flatness is None:
        return []
    measures = measures_of(study)
    measures |= {"gap": _model("gap"), "train": _model("train_error"), "loss": _model("loss")}
    known = [r for r in results if r.flatness and "models" in r.flatness]
    found = []
    for condition in study.conditions:
        values = {
            arm.name: {
                name: _each([r for r in known if _is(r, arm.name, condition.name)], read)
                for name, read in measures.items()
            }
            for arm in study.arms
        }
        first = {name: own[next(iter(measures))] for name, own in values.items()}
        found += [
            Flat(
                arm=name,
                condition=condition.name,
                values=own,
                ratio=_log_ratio(first[name], first[study.baseline_of(name)])
                if name != study.baseline_of(name)
                else None,
            )
            for name, own in values.items()
            if own["loss"]
        ]
    corrected = holm([flat.ratio.p if flat.ratio else math.nan for flat in found])
    return [replace(flat, corrected=p) for flat, p in zip(found, corrected, strict=True)]


def _is(result: Result, arm: str, condition: str) -> bool:
    return (result.arm, result.condition) == (arm, condition)


def _each(results: Sequence[Result], read: Read) -> dict[int, float]:
    values = {r.seed: read(r.flatness) for r in results if r.flatness}
    return {seed: value for seed, value in values.items() if value is not None}


def _log_ratio(own: Mapping[int, float], base: Mapping[int, float]) -> Difference | None:
    """The mean of log(own / base) over the seeds on which both are positive."""
    seeds = [s for s in sorted(own.keys() & base.keys()) if own[s] > 0.0 and base[s] > 0.0]
    if not seeds:
        return None
    return paired_difference(
        [math.log(own[seed]) for seed in seeds], [math.log(base[seed]) for seed in seeds]
    )


def interval_text(ratio: Difference) -> str:
    """The confidence interval of a ratio, given as a difference of logarithms."""
    return f"{exp_text(ratio.low)} to {exp_text(ratio.high)}"


def exp_text(logarithm: float) -> str:
    """The number with this natural logarithm, as text."""
    number = exp_of(logarithm)
    return f"{number:.2f}" if number < _LONG else f"{number:.3g}"


def exp_of(logarithm: float) -> float:
    """The number with this natural logarithm; infinite if it is too large for a float."""
    try:
        return math.exp(logarithm)
    except OverflowError:
        return math.inf
