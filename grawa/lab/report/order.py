"""The order of a study's arms in tables and pictures."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from grawa.lab.experiments.study import Study
from grawa.lab.report.outcomes import Outcome


def ranked(study: Study, values: Mapping[str, Sequence[float]]) -> list[str]:
    """The arms of a comparison by the mean of their values, the lowest first.

    Args:
        study: the study; an ablation's arms stay in the order of its methods and values.
        values: arm -> its values; arms without any come last.

    Returns:
        The names of all arms.
    """
    names = [arm.name for arm in study.arms]
    if study.kind == "ablate":
        return names
    means = {name: fmean(values[name]) if values.get(name) else math.inf for name in names}
    return sorted(names, key=means.__getitem__)


def by_error(study: Study, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Outcomes in the order of their arms' errors, means over all that are given."""
    ends: dict[str, list[float]] = {}
    for outcome in outcomes:
        if outcome.end is not None:
            ends.setdefault(outcome.arm, []).append(outcome.end.mean)
    order = ranked(study, ends)
    return sorted(outcomes, key=lambda outcome: order.index(outcome.arm))


def order_text(study: Study, conditions: int) -> str:
    """What a caption says of the rows' order, and of the line of reference.

    Args:
        study: the study; an ablation has no such line, as its methods differ in their reference.
        conditions: number of conditions that the picture shows.

    Returns:
        Sentences, with a space before them; nothing for an ablation.
    """
    if study.kind == "ablate":
        return ""
    means = "mean" if conditions == 1 else "mean over all conditions"
    return f" Rows are in the order of the {means}; the dashed line is {study.baseline}."
