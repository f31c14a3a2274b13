"""Results of a study's trials: errors at equal cost, and their differences, paired by seed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from grawa.errors import UserError
from grawa.lab.experiments.study import Study
from grawa.lab.experiments.trial import Result
from grawa.lab.report.statistics import Difference, Mean, holm, mean_of, paired_difference


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """An arm under a condition.

    Attributes:
        arm: its name.
        condition: its name.
        results: its trials, also those that failed.
        errors: seed -> error at the end.
        averages: seed -> mean error during training, smaller for a faster method: see
            `outcomes_of`.
        end: mean and standard error of the errors; `None` if all trials failed.
        difference: of the error to the baseline's; `None` for the baseline itself, and if no seed
            has both.
        speed: the same for the mean error during training.
        corrected: the difference's p-value, corrected for all comparisons of the study.
        speed_corrected: the speed's p-value, corrected in the same way.
    """

    arm: str
    condition: str
    results: Sequence[Result]
    errors: Mapping[int, float]
    averages: Mapping[int, float]
    end: Mean | None
    difference: Difference | None
    speed: Difference | None
    corrected: float = math.nan
    speed_corrected: float = math.nan

    @property
    def failed(self) -> int:
        """Number of trials that failed."""
        return len(self.results) - len(self.errors)

    def spent(self, axis: str) -> float:
        """The total on an axis at the end of a run, mean over finished runs; NaN without any."""
        ends = [float(r.curve.column(axis)[-1]) for r in self.results if r.error is not None]
        return sum(ends) / len(ends) if ends else math.nan


def outcomes_of(study: Study, results: Sequence[Result]) -> list[Outcome]:
    """Every arm under every condition.

    Errors at the end are those of the last measurement, at equal cost because each run has as many
    steps as fit. Errors during training are averaged, by linear interpolation, from the amount at
    which all runs have been measured once to the amount at which the first run ends.

    Args:
        study: the study.
        results: of the trials that have finished.

    Returns:
        The outcomes of arms with results, in the order of conditions and arms.
    """
    found = [
        outcome
        for condition in study.conditions
        for outcome in _under(study, condition.name, results)
    ]
    ends = holm([o.difference.p if o.difference else math.nan for o in found])
    speeds = holm([o.speed.p if o.speed else math.nan for o in found])
    return [
        replace(o, corrected=end, speed_corrected=speed)
        for o, end, speed in zip(found, ends, speeds, strict=True)
    ]


def _under(study: Study, condition: str, results: Sequence[Result]) -> list[Outcome]:
    tests = [r for r in results if r.role == "test" and r.condition == condition]
    by_arm = {arm.name: [r for r in tests if r.arm == arm.name] for arm in study.arms}
    ended = [r for r in tests if r.error is not None]
    at, begin = common_amount(ended, study.axis), _common_begin(ended, study.axis)
    ends = {
        name: {r.seed: r.error for r in own if r.error is not None} for name, own in by_arm.items()
    }
    ways = {
        name: {r.seed: average_until(r, study.axis, begin, at) for r in ended if r.arm == name}
        for name in by_arm
    }
    return [
        Outcome(
            arm=name,
            condition=condition,
            results=own,
            errors=ends[name],
            averages=ways[name],
            end=mean_of(list(ends[name].values())) if ends[name] else None,
            difference=_paired(name, study.baseline_of(name), ends),
            speed=_paired(name, study.baseline_of(name), ways),
        )
        for name, own in by_arm.items()
        if own
    ]


def _paired(
    name: str, baseline: str, values: Mapping[str, Mapping[int, float]]
) -> Difference | None:
    own, base = values[name], values[baseline]
    seeds = sorted(own.keys() & base.keys())
    if name == baseline or not seeds:
        return None
    return paired_difference([own[seed] for seed in seeds], [base[seed] for seed in seeds])


def common_amount(results: Sequence[Result], axis: str) -> float:
    """The largest amount on an axis that all of these trials have reached.

    Returns:
        The amount; NaN without trials.

    Raises:
        UserError: if it is smaller than at some trial's first measurement.
    """
    if not results:
        return math.nan
    least = min(results, key=lambda r: float(r.curve.column(axis)[-1]))
    late = max(results, key=lambda r: float(r.curve.column(axis)[0]))
    end, begin = float(least.curve.column(axis)[-1]), float(late.curve.column(axis)[0])
    if begin > end:
        raise UserError(
            f"methods can't be compared at equal {axis}: {late.arm} is first measured at "
            f"{begin:g}, and {least.arm} ends at {end:g}; use another axis"
        )
    return end


def _common_begin(results: Sequence[Result], axis: str) -> float:
    return max((float(r.curve.column(axis)[0]) for r in results), default=math.nan)


def error_at(result: Result, axis: str, at: float) -> float:
    """The error at an amount on an axis, interpolated between the points of the curve.

    Args:
        result: a trial's result.
        axis: a column of its curve.
        at: the amount; beyond the curve's ends, the error of the nearest point counts.

    Returns:
        The error.
    """
    points = _points(result, axis)
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 <= at < x1:
            return y0 + (y1 - y0) * (at - x0) / (x1 - x0)
    return points[0][1] if at < points[0][0] else points[-1][1]


def average_until(result: Result, axis: str, begin: float, end: float) -> float:
    """The mean error between two amounts on an axis: the area under the curve over its width.

    Returns:
        The mean; the error at `end` if the width is zero.
    """
    inside = [x for x, _ in _points(result, axis) if begin < x < end]
    at = [begin, *inside, end]
    if end <= begin:
        return error_at(result, axis, end)
    errors = [error_at(result, axis, x) for x in at]
    area = sum(
        (x1 - x0) * (y0 + y1) / 2.0 for (x0, y0), (x1, y1) in pairwise(zip(at, errors, strict=True))
    )
    return area / (end - begin)


def _points(result: Result, axis: str) -> list[tuple[float, float]]:
    """(amount, error) pairs; an error that is not finite counts as the largest finite one."""
    pairs = list(zip(result.curve.column(axis), result.curve.error, strict=True))
    worst = max(error for _, error in pairs if error is not None)
    return [(float(x), worst if error is None else error) for x, error in pairs]
