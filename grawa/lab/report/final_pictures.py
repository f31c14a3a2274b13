"""Pictures of the errors at the end: under all conditions, and over a knob's values."""

from collections.abc import Sequence
from functools import partial

from matplotlib.figure import Figure
from scipy import stats

from grawa.lab.experiments.study import Study
from grawa.lab.report.drawing import (
    Picture,
    grid_of,
    legend_below,
    mark_style,
    name_rows,
    panel_size,
    rows_height,
    spread_out,
)
from grawa.lab.report.outcomes import Outcome
from grawa.lab.report.tables import Unit


def final_picture(study: Study, outcomes: Sequence[Outcome], unit: Unit) -> Picture:
    """Every arm's error under every condition of these outcomes."""
    return Picture(
        name="final",
        title=f"Error at equal {study.axis}",
        caption="Mean over the seeds, 95% confidence interval, and each seed as a dot.",
        draw=partial(_draw_final, study=study, outcomes=outcomes, unit=unit),
        size=panel_size(
            len(conditions_of(outcomes)), 2, rows_height([arm.name for arm in study.arms], 0.26)
        ),
    )


def _draw_final(figure: Figure, *, study: Study, outcomes: Sequence[Outcome], unit: Unit) -> None:
    order = [arm.name for arm in study.arms]
    panels = grid_of(figure, len(conditions_of(outcomes)), 2, sharey=True)
    for panel, condition in zip(panels, conditions_of(outcomes), strict=True):
        for outcome in (o for o in outcomes if o.condition == condition and o.end):
            assert outcome.end is not None
            y, style = order.index(outcome.arm), mark_style(order.index(outcome.arm))
            values = [unit.scale * v for v in outcome.errors.values()]
            half = interval_half(outcome) * unit.scale
            panel.plot(values, [y + 0.22] * len(values), ".", color=style["color"], alpha=0.5)
            panel.errorbar(unit.scale * outcome.end.mean, y, xerr=half, capsize=3, **style)
        panel.set(title=condition, xlabel=unit.label)
        name_rows(panel, order)


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
    return Picture(
        name="knob",
        title=f"Effect of {study.knob}",
        caption="Mean over the seeds, 95% confidence interval.",
        draw=partial(_draw_knob, study=study, outcomes=outcomes, unit=unit),
        size=panel_size(len(conditions_of(outcomes)), 2, 3.0),
    )


def _draw_knob(figure: Figure, *, study: Study, outcomes: Sequence[Outcome], unit: Unit) -> None:
    methods = list(dict.fromkeys(arm.method for arm in study.arms))
    values = list(dict.fromkeys(arm.value for arm in study.arms))
    at = _positions(values)
    logarithmic = len(at) > 2 and spread_out(at, 4.0)
    panels = grid_of(figure, len(conditions_of(outcomes)), 2, sharey=True)
    for panel, condition in zip(panels, conditions_of(outcomes), strict=True):
        own = {o.arm: o for o in outcomes if o.condition == condition and o.end}
        for number, method in enumerate(methods):
            arms = [a for a in study.arms if a.method == method and a.name in own]
            means = [unit.scale * own[a.name].end.mean for a in arms]  # type: ignore[union-attr]
            halves = [unit.scale * interval_half(own[a.name]) for a in arms]
            xs = [at[values.index(a.value)] for a in arms]
            xs = [_beside(x, number, logarithmic, at) for x in xs]
            panel.errorbar(xs, means, halves, capsize=3, label=method, **mark_style(number))
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
