"""Pictures of the errors at the end: under all conditions, and over a knob's values."""

from collections.abc import Sequence
from functools import partial

from matplotlib.figure import Figure
from scipy import stats

from grawa.lab.experiments.study import Study
from grawa.lab.report.colours import Style, method_colour, styles_of
from grawa.lab.report.drawing import Picture
from grawa.lab.report.layout import (
    Layout,
    dots,
    legend_below,
    name_rows,
    reference_line,
    spread_out,
    with_rows,
)
from grawa.lab.report.order import by_error, order_text
from grawa.lab.report.outcomes import Outcome
from grawa.lab.report.tables import Unit


def final_picture(study: Study, outcomes: Sequence[Outcome], unit: Unit) -> Picture:
    """Every arm's error under every condition of these outcomes."""
    layout = with_rows(len(conditions_of(outcomes)), [arm.name for arm in study.arms])
    return Picture(
        name="final",
        title=f"Error at equal {study.axis}",
        caption="Mean over the seeds, 95% confidence interval, and each seed as a dot."
        + order_text(study, layout.panels),
        layout=layout,
        draw=partial(_draw_final, layout=layout, study=study, outcomes=outcomes, unit=unit),
    )


def _draw_final(
    figure: Figure, *, layout: Layout, study: Study, outcomes: Sequence[Outcome], unit: Unit
) -> None:
    styles = styles_of(study)
    rows = list(dict.fromkeys(outcome.arm for outcome in by_error(study, outcomes)))
    panels = layout.axes(figure, sharey=True)
    for panel, condition in zip(panels, conditions_of(outcomes), strict=True):
        for outcome in (o for o in outcomes if o.condition == condition and o.end):
            assert outcome.end is not None
            y, style = rows.index(outcome.arm), styles[outcome.arm]
            values, mean = [unit.scale * v for v in outcome.errors.values()], outcome.end.mean
            half = interval_half(outcome) * unit.scale
            dots(panel, values, y + 0.22, style.colour)
            panel.errorbar(unit.scale * mean, y, xerr=half, capsize=3, **style.points)
            if outcome.arm == study.baseline:
                reference_line(panel, unit.scale * mean)
        panel.set(title=condition, xlabel=unit.label)
        name_rows(panel, rows)


def conditions_of(outcomes: Sequence[Outcome]) -> list[str]:
    """The names of the conditions, each once, in their order."""
    return list(dict.fromkeys(outcome.condition for outcome in outcomes))


def interval_half(outcome: Outcome) -> float:
    """Half of the 95% confidence interval of an outcome's mean; 0 for a single seed."""
    end = outcome.end
    if end is None or end.number < 2:
        return 0.0
    return float(stats.t.ppf(0.975, end.number - 1)) * end.error


def knob_picture(study: Study, outcomes: Sequence[Outcome], unit: Unit) -> Picture:
    """Every method's error over the values of the study's knob."""
    layout = Layout(panels=len(conditions_of(outcomes)), across=2, height=3.0)
    return Picture(
        name="knob",
        title=f"Effect of {study.knob}",
        caption=f"Mean over the seeds, 95% confidence interval. The dashed line is at "
        f"{study.knob}={study.baseline}, with which each method's other values are compared.",
        layout=layout,
        draw=partial(_draw_knob, layout=layout, study=study, outcomes=outcomes, unit=unit),
    )


def _draw_knob(
    figure: Figure, *, layout: Layout, study: Study, outcomes: Sequence[Outcome], unit: Unit
) -> None:
    methods = {arm.method: arm.written for arm in study.arms}
    values = list(dict.fromkeys(arm.value for arm in study.arms))
    at = _positions(values)
    logarithmic = len(at) > 2 and spread_out(at, 4.0)
    panels = layout.axes(figure, sharey=True)
    for panel, condition in zip(panels, conditions_of(outcomes), strict=True):
        own = {o.arm: o for o in outcomes if o.condition == condition and o.end}
        for number, (method, written) in enumerate(methods.items()):
            arms = [a for a in study.arms if a.method == method and a.name in own]
            means = [unit.scale * own[a.name].end.mean for a in arms]  # type: ignore[union-attr]
            halves = [unit.scale * interval_half(own[a.name]) for a in arms]
            xs = [at[values.index(a.value)] for a in arms]
            xs = [_beside(x, number, logarithmic, at) for x in xs]
            style = Style(colour=method_colour(written), dashes=0, mark=number)
            panel.errorbar(xs, means, halves, capsize=3, label=method, **style.points)
        reference_line(panel, at[values.index(study.baseline)])
        if logarithmic:
            panel.set_xscale("log", base=2)
        panel.set_xticks(at, values)
        panel.minorticks_off()
        panel.set(title=condition, xlabel=study.knob)
    panels[0].set_ylabel(unit.label)
    legend_below(figure, panels[0])


def _positions(values: Sequence[str]) -> list[float]:
    """The positions of values on an axis: their numbers, or 0, 1, 2, ... if they have none."""
    try:
        return [float(value) for value in values]
    except ValueError:
        return [float(i) for i in range(len(values))]


def _beside(x: float, number: int, logarithmic: bool, at: Sequence[float]) -> float:
    """Shifts each further method a little to the right, so that error bars don't overlap."""
    if logarithmic:
        return float(x * (max(at) / min(at)) ** (0.015 * number))
    return x + 0.015 * number * (max(at) - min(at))
