"""Tested claims of a study: each with its outcome and the figures behind it."""

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Literal

from grawa.lab.experiments.study import Study
from grawa.lab.report.outcomes import Outcome
from grawa.lab.report.statistics import Difference
from grawa.lab.report.tables import Unit, amounts_text

Finding = Literal["supported", "not supported", "contradicted", "no answer"]

LEVEL = 0.05
"""A claim is supported, or contradicted, if the corrected p-value is below this."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A claim and whether the figures support it.

    Attributes:
        claim: a sentence that is true or false.
        outcome: whether the figures support it.
        why: the figures.
    """

    claim: str
    outcome: Finding
    why: str


def verdicts_of(study: Study, outcomes: Sequence[Outcome], unit: Unit) -> dict[str, list[Verdict]]:
    """The claims that the baseline ends better, and is faster, than each other arm.

    Args:
        study: the study.
        outcomes: its outcomes.
        unit: formats errors.

    Returns:
        Verdicts on the end, and on speed, each under a heading.
    """
    baseline = {arm.name: study.baseline_of(arm.name) for arm in study.arms}
    others = [o for o in outcomes if o.arm != baseline[o.arm]]
    ends = [
        _verdict(
            f"{baseline[o.arm]} ends at a lower error than {o.arm}, {o.condition}"
            + _after(study, o.condition, {o.arm, baseline[o.arm]}, outcomes),
            o, o.difference, o.corrected, unit,
        )
        for o in others
    ]  # fmt: skip
    speeds = [
        _verdict(
            f"{baseline[o.arm]} has a lower error than {o.arm} during training, {o.condition}",
            o, o.speed, o.speed_corrected, unit,
        )
        for o in others
    ]  # fmt: skip
    return {f"Ends better, at equal {study.axis}": ends, f"Is faster, by {study.axis}": speeds}


def _after(study: Study, condition: str, arms: Set[str], outcomes: Sequence[Outcome]) -> str:
    """The cost of these arms' runs, as the end of a sentence."""
    own = [o for o in outcomes if o.condition == condition and o.arm in arms]
    text = amounts_text(study.axis, [o.spent(study.axis) for o in own])
    return f", after {text}" if text else ""


def _verdict(
    claim: str, outcome: Outcome, difference: Difference | None, p: float, unit: Unit
) -> Verdict:
    failed = f", {outcome.failed} of {len(outcome.results)} runs failed" if outcome.failed else ""
    if difference is None:
        why = f"No seed on which both have an error{failed}"
        return Verdict(claim=claim, outcome="no answer", why=why)
    size = f"{unit.change(difference)}{unit.points}"
    if difference.number < 2:
        why = f"One seed alone, difference {size}{failed}"
        return Verdict(claim=claim, outcome="no answer", why=why)
    interval = f"95% CI {unit.interval(difference)}"
    seeds = f"{difference.number} seeds, corrected p {p_text(p)}"
    why = f"Difference {size}, {interval}, {seeds}{failed}"
    return Verdict(claim=claim, outcome=finding(difference, p), why=why)


def finding(difference: Difference, p: float) -> Finding:
    """Whether a difference, other minus baseline, supports the claim that the baseline is lower."""
    if not p < LEVEL:
        return "not supported"
    return "supported" if difference.mean > 0.0 else "contradicted"


def p_text(p: float) -> str:
    """A p-value, with as many digits as are useful.

    Returns:
        The text, or a dash for NaN.

    >>> p_text(0.0312), p_text(0.00002), p_text(float("nan"))
    ('0.031', '< 0.001', '-')
    """
    if math.isnan(p):
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"
