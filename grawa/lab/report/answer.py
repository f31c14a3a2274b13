"""A study's answer in a few sentences: what ended lowest, what differs, what could be told."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grawa.lab.experiments.study import Study
from grawa.lab.report.outcomes import Outcome
from grawa.lab.report.pooled import Pooled
from grawa.lab.report.power import detectable, pairs_for, round_below
from grawa.lab.report.statistics import Difference
from grawa.lab.report.tables import Unit
from grawa.lab.report.verdicts import LEVEL

_NAMED = 6
"""Most differences that are named."""

_NEXT = 2
"""Methods that are named after the one with the lowest error."""

Compared = Outcome | Pooled
"""An arm, with its error and its difference to the baseline's."""


@dataclass(frozen=True, kw_only=True)
class _Family:
    """Comparisons whose p-values are corrected together.

    Attributes:
        places: where -> the arms there; where is empty if there is only one place.
        pairs: what a pair of runs is, in the plural.
        tests: number of p-values that are corrected together.
    """

    places: Mapping[str, Sequence[Compared]]
    pairs: str
    tests: int

    @property
    def tested(self) -> list[tuple[str, Compared, Difference]]:
        """Its differences that have a p-value, with their place and arm."""
        return [
            (where, one, one.difference)
            for where, own in self.places.items()
            for one in own
            if one.difference is not None and not math.isnan(one.difference.p)
        ]


def answer_of(
    study: Study,
    outcomes: Sequence[Outcome],
    pooled: Sequence[Pooled],
    unit: Unit,
    *,
    complete: bool,
) -> list[str]:
    """The sentences with which the terminal and the page begin.

    Args:
        study: the study.
        outcomes: of all conditions.
        pooled: over its random populations, if it has enough.
        unit: formats errors.
        complete: whether all runs have ended.

    Returns:
        For each condition the lowest errors; then which differences to the baseline hold; then
        which could have been told, and with how many seeds smaller ones; then what aliases stand
        for.
    """
    said = []
    for family in _families(study, outcomes, pooled):
        for where, own in family.places.items():
            said += _lowest(study, where, own, unit, complete=complete)
        said += [_holding(study, family, unit), *_telling(family, unit)]
    aliases = {arm.method: arm.alias_of for arm in study.arms if arm.alias_of}
    return said + [f"{alias} stands for {method}." for alias, method in aliases.items()]


def _families(study: Study, outcomes: Sequence[Outcome], pooled: Sequence[Pooled]) -> list[_Family]:
    """The random populations together, and all other conditions."""
    found = []
    if pooled:
        where = f"{len(study.populations)} random populations"
        found.append(_Family(places={where: pooled}, pairs="populations", tests=_tests(pooled)))
    places: dict[str, list[Compared]] = {}
    for outcome in outcomes:
        if not (pooled and outcome.condition in study.populations):
            where = outcome.condition if len(study.conditions) > 1 else ""
            places.setdefault(where, []).append(outcome)
    if places:
        found.append(_Family(places=places, pairs="seeds", tests=_tests(outcomes)))
    return found


def _tests(compared: Sequence[Compared]) -> int:
    return sum(not math.isnan(one.corrected) for one in compared)


def _lowest(
    study: Study, where: str, own: Sequence[Compared], unit: Unit, *, complete: bool
) -> list[str]:
    """The lowest errors at a place: the first three, and the baseline's; none if all failed."""
    ended = sorted((o.end.mean, place) for place, o in enumerate(own) if o.end is not None)
    if not ended:
        return [f"No run ended with an error{_at(where)}."]
    ranked = [own[place] for _, place in ended]
    shown = ranked[: 1 + _NEXT]
    shown += [o for o in ranked[len(shown) :] if o.arm == study.baseline_of(ranked[0].arm)]
    first, *others = [_with_error(one, unit) for one in shown]
    then = f"; then {', '.join(others)}" if others else ""
    so_far = "" if complete else " so far"
    return [f"Lowest {unit.metric}{so_far}{_at(where)}: {first}{then}."]


def _at(where: str) -> str:
    return f" ({where})" if where else ""


def _with_error(one: Compared, unit: Unit) -> str:
    assert one.end is not None, "it has ended"
    failed = f" ({one.failed} of its runs failed)" if one.failed else ""
    return f"{one.arm} {unit.text(one.end.mean)}{'%' if unit.in_percent else ''}{failed}"


def _holding(study: Study, family: _Family, unit: Unit) -> str:
    """Which differences to the baseline hold after Holm's correction."""
    tested = family.tested
    own = f"each method's own at {study.knob}=" if study.knob else ""
    compared = f"Compared with {own}{study.baseline}"
    if not tested:
        return f"{compared}, nothing can be told from chance: it takes at least 2 {family.pairs}."
    after = f" after Holm's correction for {family.tests} tests" if family.tests > 1 else ""
    hold = [(where, one, d) for where, one, d in tested if one.corrected < LEVEL]
    if not hold:
        return f"{compared}, no difference holds{after}."
    named = [
        f"{one.arm} {unit.change(difference)}{unit.points}"
        + (_at(where) if len(family.places) > 1 else "")
        for where, one, difference in hold[:_NAMED]
    ]
    if len(hold) > _NAMED:
        named.append(f"and {len(hold) - _NAMED} more")
    differences = "difference" if len(tested) == 1 else "differences"
    holds = "holds" if len(hold) == 1 else "hold"
    count = f"{len(hold)} of {len(tested)} {differences} {holds}"
    return f"{compared}, {count}{after}: {', '.join(named)}."


def _telling(family: _Family, unit: Unit) -> list[str]:
    """The difference that these pairs can tell from chance, and the pairs for a smaller one."""
    differences = [difference for *_, difference in family.tested]
    spread = statistics.median([d.spread for d in differences]) if differences else 0.0
    errors = [one.end.mean for own in family.places.values() for one in own if one.end]
    if not spread > 0.0 or not max(errors) > 0.0:
        return []
    pairs = statistics.median_low([d.number for d in differences])
    level = LEVEL / family.tests
    smallest = detectable(spread, pairs, level)
    aim = round_below(unit.scale * min(smallest, max(errors)))
    needed = pairs_for(aim / unit.scale, spread, level)
    many = "more than 10,000" if needed is None else f"{needed:,}"
    if smallest > max(errors):  # no method can be so much better than another
        tells = f"are too few to tell methods apart; {many} would tell {_plain(aim)}{unit.points}"
    else:
        tells = f"can tell about {_plain(unit.scale * smallest)}{unit.points} apart"
        tells = f"{tells}; {many} would tell {_plain(aim)}"
    return [f"These {pairs} {family.pairs} {tells} (in 4 of 5 such studies)."]


def _plain(value: float) -> str:
    """A number with two digits, written out.

    Returns:
        The text.

    >>> _plain(1.0849), _plain(0.5), _plain(1234.5)
    ('1.1', '0.5', '1200')
    """
    return f"{float(f'{value:.2g}'):.6g}"
