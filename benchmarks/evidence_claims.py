"""The paper's claims, each compared with the results of the studies."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from evidence_kinds import Kind
from evidence_studies import DILOCO
from evidence_tables import Read, kind_of, markdown
from grawa.lab.report.statistics import Difference, Mean, holm, paired_difference
from grawa.lab.report.verdicts import Finding, finding

_NAMES = ("mgrawa", "lgrawa")
GRAWA = tuple(f"{name}:score=training" for name in _NAMES)
"""With training norms, since studies with `lgrawa`'s probe norms have not been run."""

RIVALS = ("easgd", "easgd:sync_every=4", "lsgd", "lsgd:sync_every=4", "dp_sgd", "dp_sam")
"""The methods that the paper compares with; EASGD and LSGD average models too."""

CONTROLS = ("uniform", "local_sgd", DILOCO, "dppf", "random", "inverse_loss")
"""Methods that the paper does not compare with; they show where an advantage comes from."""

_THEORY = Path("benchmarks/results/theory.json")
_OURS, _EQUAL = "mgrawa", "uniform"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A comparison of GRAWA with another method.

    Attributes:
        grawa: the variant of GRAWA.
        rival: the other method.
        difference: rival minus GRAWA, of a metric that is better if smaller.
        unit: of the difference: "points" of an error rate, otherwise "".
        p: corrected for all comparisons of the claim.
    """

    grawa: str
    rival: str
    difference: Difference
    unit: str
    p: float = math.nan

    @property
    def finding(self) -> Finding:
        """Whether it supports the claim that GRAWA is lower."""
        return finding(self.difference, self.p)


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Holm's correction over all comparisons of a claim."""
    many = holm([c.difference.p for c in comparisons])
    return [replace(c, p=p) for c, p in zip(comparisons, many, strict=True)]


def _between_methods(
    reads: Sequence[Read], pick: Callable[[Read], Iterator[tuple[str, Difference | None]]]
) -> list[Comparison]:
    """Both variants against every other method, on every task and under every condition."""
    found = [
        Comparison(
            grawa=grawa,
            rival=_same_name(arm),
            difference=difference,
            unit=read.unit.points.strip(),
        )
        for read in reads
        for grawa in GRAWA
        for arm, difference in pick(read.against(grawa))
        if not arm.startswith(_NAMES) and difference is not None and difference.number > 1
    ]
    return corrected(found)


def _same_name(arm: str) -> str:
    """The method's name; data parallel with the study's own optimizer counts as dp_sgd."""
    return "dp_sgd" if arm == "data_parallel" else arm


def _speeds(read: Read) -> Iterator[tuple[str, Difference | None]]:
    return ((o.arm, o.speed) for o in read.outcomes)


def _ends(read: Read) -> Iterator[tuple[str, Difference | None]]:
    return ((o.arm, o.difference) for o in read.outcomes)


def _flatness(read: Read) -> Iterator[tuple[str, Difference | None]]:
    return ((flat.arm, flat.ratio) for flat in read.flats)


def _at_values(read: Read, ours: str, theirs: str) -> list[Comparison]:
    """In an ablation: GRAWA at one value of the knob against the others at another value.

    Args:
        read: the ablation.
        ours: GRAWA's value.
        theirs: the others' value.

    Returns:
        The comparisons under all conditions, not corrected.
    """
    by_arm = {(o.arm, o.condition): o.errors for o in read.outcomes}
    arms = {(arm.method, arm.value): arm.name for arm in read.study.arms}
    found = []
    for condition in (c.name for c in read.study.conditions):
        for grawa in GRAWA:
            own = by_arm[arms[grawa, ours], condition]
            for method in dict.fromkeys(arm.method for arm in read.study.arms):
                other = by_arm[arms[method, theirs], condition]
                seeds = sorted(own.keys() & other.keys())
                if method not in GRAWA and len(seeds) > 1:
                    apart = paired_difference([other[s] for s in seeds], [own[s] for s in seeds])
                    found.append(
                        Comparison(
                            grawa=grawa,
                            rival=method,
                            difference=apart,
                            unit=read.unit.points.strip(),
                        )
                    )
    return found


def _verdict(comparisons: Sequence[Comparison]) -> str:
    """The outcome: supported by more than half of the comparisons, by none, or partly."""
    up, down = _count(comparisons, "supported"), _count(comparisons, "contradicted")
    if 2 * up > len(comparisons) and not down:
        return "supported"
    if down > up:
        return "contradicted"
    return "partly" if up else "not supported"


def _count(comparisons: Sequence[Comparison], outcome: Finding) -> int:
    return sum(c.finding == outcome for c in comparisons)


def _tally(comparisons: Sequence[Comparison]) -> str:
    """The numbers of comparisons that are for, against, or within noise."""
    up, down = _count(comparisons, "supported"), _count(comparisons, "contradicted")
    return f"{up} for, {down} against, {len(comparisons) - up - down} within noise"


def _middle(comparisons: Sequence[Comparison], claim: str) -> str:
    """The median difference: points of error, or a ratio of traces."""
    words = "theirs over GRAWA's" if "flatter" in claim else "theirs minus GRAWA's"
    unit = "" if "flatter" in claim else " points"
    return f"median of {words} {_middle_number(comparisons, claim)}{unit}"


def _middle_number(comparisons: Sequence[Comparison], claim: str) -> str:
    if "flatter" in claim:
        return f"{math.exp(median(c.difference.mean for c in comparisons)):.2f}"
    points = [c.difference.mean for c in comparisons if c.unit]
    return f"{100.0 * median(points):+.2f}" if points else "-"


def claims_table(reads: Sequence[Read]) -> str:
    """The table of the six claims, and one of the first three for each rival."""
    methods = [read for read in reads if kind_of(read) is Kind.METHODS]
    workers = [read for read in reads if read.study.knob == "workers"]
    sync = [read for read in reads if read.study.knob == "sync_every"]
    scaled = [c for read in workers for c in _at_values(read, _last(read), _last(read))]
    rarely = [c for read in sync for c in _at_values(read, "32", "4")]
    claims: Mapping[str, tuple[Sequence[Read], list[Comparison]]] = {
        "1. converges faster": (methods, _between_methods(methods, _speeds)),
        "2. ends better": (methods, _between_methods(methods, _ends)),
        "3. ends flatter": (methods, _between_methods(methods, _flatness)),
        "4. scales to more workers": (workers, corrected(scaled)),
        "5. needs fewer rounds": (sync, corrected(rarely)),
    }
    rows = []
    for claim, (asked, comparisons) in claims.items():
        own = [c for c in comparisons if c.rival in RIVALS]
        others = [c for c in comparisons if c.rival in CONTROLS]
        seeds = {c.difference.number for c in comparisons}
        rows.append([
            claim,
            f"**{_verdict(own)}**",
            f"{_tally(own)}; {_middle(own, claim)}",
            f"**{_verdict(others)}**: {_tally(others)}; {_middle(others, claim)}",
            _range(seeds),
            f"`python benchmarks/evidence.py --only {' '.join(read.name for read in asked)}`",
            ", ".join(f"[{read.name}](tables/{read.name}.md)" for read in asked),
        ])
    rows.append(_sixth())
    head = [
        "claim", "against the paper's rivals", "comparisons", "against the controls", "seeds",
        "command", "seen in",
    ]  # fmt: skip
    firsts = {claim: found for claim, (_, found) in claims.items()}
    return markdown(head, rows) + "\n\n" + _by_rival(firsts)


def _last(read: Read) -> str:
    return read.study.arms[-1].value


def _range(seeds: set[int]) -> str:
    return str(min(seeds)) if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)}"


def _by_rival(claims: Mapping[str, Sequence[Comparison]]) -> str:
    """For each variant and rival: comparisons for, against, within noise; the median difference."""
    rows = []
    for rival in (*RIVALS, *CONTROLS):
        cells = []
        for claim, comparisons in claims.items():
            for grawa in GRAWA:
                own = [c for c in comparisons if (c.grawa, c.rival) == (grawa, rival)]
                cells.append(_cell(own, claim))
        rows.append([rival, *cells])
    head = [f"{claim[:2]} {grawa}" for claim in claims for grawa in GRAWA]
    return (
        "For / against / within noise, over tasks and conditions; in brackets the median over "
        "them of the rival's minus GRAWA's in points, or of its trace over GRAWA's (3):\n\n"
        + markdown(["rival", *head], rows)
    )


def _cell(comparisons: Sequence[Comparison], claim: str) -> str:
    if not comparisons:
        return "-"
    up, down = _count(comparisons, "supported"), _count(comparisons, "contradicted")
    middle = _middle_number(comparisons, claim)
    return f"{up} / {down} / {len(comparisons) - up - down} ({middle})"


def _sixth() -> list[str]:
    """The row of the claim that `python benchmarks/theory.py` tests, from its results file."""
    found = json.loads(_THEORY.read_text(encoding="utf-8"))
    convex = found["convex"]
    rates = {
        **{f"{task}, slope over rounds": of["iid, decaying"] for task, of in convex.items()},
        "non-convex, slope over T, where -0.5 is expected,": found["nonconvex"],
    }
    seeds = found["config"]["seeds"]

    def both(methods: Mapping[str, Any], what: str) -> list[Mean]:
        pairs = [methods[name][what] for name in (_OURS, _EQUAL)]
        return [Mean(mean, error, seeds) for mean, error in pairs]

    slopes = {name: both(methods, "slope") for name, methods in rates.items()}
    ends = {task: both(of["non-iid, decaying"], "end") for task, of in convex.items()}
    falls = all(ours.mean + 2.0 * ours.error < 0.0 for ours, _ in slopes.values())
    farther = any(_beyond(ours, equal) for ours, equal in ends.values())
    apart = sum(_beyond(a, b) or _beyond(b, a) for a, b in slopes.values())
    figures = [
        f"{name} {_text(ours, '.2f')} ({_text(equal, '.2f')})"
        for name, (ours, equal) in slopes.items()
    ]
    figures += [
        f"{task}, not iid, ends at a squared distance of {_text(ours, '.1e')} "
        f"({_text(equal, '.1e')})"
        for task, (ours, equal) in ends.items()
    ]
    return [
        "6. converges, convex and not",
        f"**{'supported' if falls else 'not supported'}** on iid data, "
        f"**{'contradicted' if farther else 'supported'}** where workers' data differ in kind",
        f"{_OURS} with training norms (and {_EQUAL}): {'; '.join(figures)}",
        f"{apart} of {len(slopes)} rates differ from {_EQUAL}'s",
        str(seeds),
        "`python benchmarks/theory.py`",
        "[convex](../pictures/theory_convex.png), [not](../pictures/theory_nonconvex.png)",
    ]


def _text(found: Mean, spec: str) -> str:
    return f"{found.mean:{spec}} ± {found.error:{spec}}"


def _beyond(one: Mean, other: Mean) -> bool:
    """Whether a mean is greater than another by more than two standard errors."""
    return one.mean - other.mean > 2.0 * math.hypot(one.error, other.error)
