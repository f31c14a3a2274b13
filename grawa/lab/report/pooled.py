"""Results over random populations, in which each population is one observation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from matplotlib.figure import Figure

from grawa.lab.experiments.study import Study
from grawa.lab.report.colours import INK, styles_of
from grawa.lab.report.drawing import Picture
from grawa.lab.report.layout import Layout, dots, name_rows, rows_height
from grawa.lab.report.outcomes import Outcome
from grawa.lab.report.statistics import Difference, Mean, holm, mean_of, paired_difference
from grawa.lab.report.tables import Cell, Table, Unit, change_cell, interval_cell, mean_cell
from grawa.lab.report.verdicts import LEVEL, Verdict, finding, p_text

FEWEST = 3
"""Least number of populations for a mean."""

_NO = Cell(text="-")


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """An arm over all random populations of a study.

    Attributes:
        arm: its name.
        end: mean over populations of their mean errors, and its standard error.
        differences: population -> mean difference to the baseline, over the seeds that both have.
        difference: their mean; `None` for the baseline itself. Seeds of one population are not
            independent, so the standard error is over populations (clustered).
        corrected: its p-value, corrected for all arms.
        failed: number of runs that failed.
    """

    arm: str
    end: Mean
    differences: Mapping[str, float]
    difference: Difference | None
    corrected: float = math.nan
    failed: int

    @property
    def higher(self) -> int:
        """Number of populations in which its error is above the baseline's."""
        return sum(difference > 0.0 for difference in self.differences.values())


def pooled_of(study: Study, outcomes: Sequence[Outcome]) -> list[Pooled]:
    """Every arm over the random populations.

    Args:
        study: the study.
        outcomes: of all conditions.

    Returns:
        In the order of arms; none if there are fewer than three populations.
    """
    populations = study.populations
    if len(populations) < FEWEST:
        return []
    by_place = {(o.arm, o.condition): o for o in outcomes if o.condition in populations}
    found = []
    for arm in study.arms:
        own = [by_place[arm.name, p] for p in populations if (arm.name, p) in by_place]
        ends = [o.end.mean for o in own if o.end]
        if not ends:
            continue
        apart = {o.condition: o.difference.mean for o in own if o.difference}
        found.append(
            Pooled(
                arm=arm.name,
                end=mean_of(ends),
                differences=apart,
                difference=paired_difference(list(apart.values()), [0.0] * len(apart))
                if apart
                else None,
                failed=sum(o.failed for o in own),
            )
        )
    corrected = holm([pooled.difference.p if pooled.difference else math.nan for pooled in found])
    return [replace(pooled, corrected=p) for pooled, p in zip(found, corrected, strict=True)]


def in_populations(study: Study, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Each arm's runs in all random populations, put into one condition to draw their curves.

    Args:
        study: the study.
        outcomes: of all conditions.

    Returns:
        In the order of arms.
    """
    populations = study.populations
    found = []
    for arm in study.arms:
        own = [o for o in outcomes if o.arm == arm.name and o.condition in populations]
        if own:
            runs = [result for outcome in own for result in outcome.results]
            title = f"{len(populations)} random populations"
            found.append(replace(own[0], condition=title, results=runs))
    return found


def pooled_table(study: Study, pooled: Sequence[Pooled], unit: Unit) -> Table:
    """Errors and differences over all random populations.

    Args:
        study: the study.
        pooled: of all arms.
        unit: formats errors.

    Returns:
        The table.
    """
    return Table(
        name="populations",
        title=f"{len(study.populations)} random populations: {unit.label}",
        columns=[
            ("method", False), (f"{unit.label} ± SE", True), ("failed", True),
            (f"minus {study.baseline}", True), ("95% CI", False), ("higher in", True), ("p", True),
            ("p, Holm", True),
        ],
        rows=[_row(one, unit) for one in sorted(pooled, key=lambda one: one.end.mean)],
        note="Each population is one observation, the mean over its seeds; standard errors, "
        "intervals and p are over populations.",
        printed=True,
    )  # fmt: skip


def _row(one: Pooled, unit: Unit) -> list[Cell]:
    failed = Cell(text=str(one.failed), value=one.failed)
    cells = [Cell(text=one.arm), mean_cell(one.end, unit), failed]
    apart = one.difference
    if apart is None:
        return [*cells, *[_NO] * 5]
    clear = one.corrected < LEVEL
    return [
        *cells,
        change_cell(apart, unit, strong=clear),
        interval_cell(apart, unit),
        Cell(text=f"{one.higher} of {apart.number}", value=one.higher / apart.number),
        Cell(text=p_text(apart.p), value=apart.p),
        Cell(text=p_text(one.corrected), value=one.corrected, strong=clear),
    ]


def pooled_verdicts(study: Study, pooled: Sequence[Pooled], unit: Unit) -> dict[str, list[Verdict]]:
    """The claims that the baseline ends better than each other arm over random populations."""
    found = []
    for one in pooled:
        if one.difference is None:
            continue
        apart, count = one.difference, len(study.seeds)
        seeds = "1 seed" if count == 1 else f"{count} seeds"
        found.append(
            Verdict(
                claim=f"{study.baseline} ends at a lower error than {one.arm} over random "
                "populations",
                outcome=finding(apart, one.corrected),
                why=f"Difference {unit.change(apart)}{unit.points}, 95% CI "
                f"{unit.interval(apart)}, {apart.number} "
                f"populations of {seeds} each, {one.arm} higher in {one.higher}, "
                f"corrected p {p_text(one.corrected)}"
                + (f", {one.failed} runs failed" if one.failed else ""),
            )
        )
    return {"Ends better over random populations": found} if found else {}


def pooled_picture(study: Study, pooled: Sequence[Pooled], unit: Unit) -> Picture:
    """Each arm's difference to the baseline, for every population."""
    others = sorted(
        (one for one in pooled if one.difference is not None), key=lambda one: one.end.mean
    )
    layout = Layout(panels=1, height=rows_height([one.arm for one in others], 0.34))
    return Picture(
        name="populations",
        title=f"Error minus that of {study.baseline}, over random populations",
        caption="Each dot is a population, the mean over its seeds; marks are means over "
        f"populations with 95% confidence intervals. To the right of zero {study.baseline} is "
        "better.",
        layout=layout,
        draw=partial(_draw, layout=layout, study=study, others=others, unit=unit),
    )


def _draw(
    figure: Figure, *, layout: Layout, study: Study, others: Sequence[Pooled], unit: Unit
) -> None:
    (panel,) = layout.axes(figure)
    panel.axvline(0.0, color=INK, linewidth=1.0)
    styles = styles_of(study)
    for y, one in enumerate(others):
        assert one.difference is not None
        style = styles[one.arm]
        values = [unit.scale * value for value in one.differences.values()]
        dots(panel, values, y + 0.2, style.colour)
        mean = unit.scale * one.difference.mean
        half = unit.scale * (one.difference.high - one.difference.low) / 2.0
        panel.errorbar(mean, y, xerr=half, capsize=3, **style.points)
    name_rows(panel, [one.arm for one in others])
    # At the right, as beside long names it may be wider than its panel.
    panel.set_xlabel(f"minus {study.baseline} ({unit.points.strip() or unit.metric})", loc="right")
