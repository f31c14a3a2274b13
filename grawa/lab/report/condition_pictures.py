"""Pictures of one condition: learning curves, and workers' weights."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from grawa.lab.experiments.study import Axis, Study
from grawa.lab.experiments.trial import Result
from grawa.lab.report.colours import GREY, Style, numbered, styles_of
from grawa.lab.report.drawing import Picture
from grawa.lab.report.heat_maps import HeatMap, draw_heat_maps
from grawa.lab.report.layout import Layout, in_lines, legend_below, log_scale, spread_out
from grawa.lab.report.order import by_error
from grawa.lab.report.outcomes import Outcome
from grawa.lab.report.statistics import mean_of
from grawa.lab.report.tables import Unit

AXES: tuple[Axis, ...] = ("time", "rounds", "bytes", "steps")
_SCALES = {"bytes": 1e-6}


def axis_label(axis: Axis, *, is_modelled: bool = True) -> str:
    """The label of an axis, with its unit.

    Args:
        axis: the axis.
        is_modelled: whether time is that of a modelled clock, as in all studies.

    Returns:
        The label.
    """
    if axis == "time":
        return "modelled time (s)" if is_modelled else "time (s)"
    return {"rounds": "rounds", "bytes": "sent by a worker (MB)", "steps": "local steps"}[axis]


def condition_pictures(
    study: Study, outcomes: Sequence[Outcome], unit: Unit, number: int
) -> Iterator[Picture]:
    """Learning curves, training loss and distance; also weights if a method has unequal ones.

    Args:
        study: the study.
        outcomes: of the condition.
        unit: formats errors.
        number: the condition's number, for the pictures' names.

    Yields:
        The pictures.
    """
    where = outcomes[0].condition
    yield from curve_pictures(study, outcomes, unit, number)
    weighted = [o for o in by_error(study, outcomes) if any(r.weights for r in o.results)]
    if weighted:
        layout = Layout(panels=len(weighted), across=3, in_column=2, height=2.4)
        yield Picture(
            name=f"weights-{number}",
            title=f"Weight of each worker, {where}",
            caption="Mean over seeds and tensors; the dotted line is the equal weight.",
            layout=layout,
            draw=partial(_draw_weights, layout=layout, outcomes=weighted),
        )
    layered = [o for o in weighted if any(r.group_names for r in o.results)]
    if layered:
        layout = Layout(panels=len(layered), across=2, height=3.0)
        yield Picture(
            name=f"layers-{number}",
            title=f"Weight of each worker, tensor by tensor, {where}",
            caption="Mean over rounds and seeds, times the number of workers: 1 is equal weight.",
            layout=layout,
            draw=partial(_draw_layers, layout=layout, outcomes=layered),
        )


def curve_pictures(
    study: Study, outcomes: Sequence[Outcome], unit: Unit, name: int | str = "together"
) -> Iterator[Picture]:
    """Learning curves, training loss and distance.

    Args:
        study: the study.
        outcomes: under one condition, one of each arm.
        unit: formats errors.
        name: a suffix that makes the pictures' names unique.

    Yields:
        The pictures.
    """
    styles, outcomes = styles_of(study), by_error(study, outcomes)
    where = outcomes[0].condition
    four = Layout(panels=len(AXES), across=2, in_column=2, height=2.7)
    yield Picture(
        name=f"curves-{name}",
        title=f"Learning curves, {where}",
        caption="Of the consensus: mean over the runs, plus and minus one standard error.",
        layout=four,
        draw=partial(_draw_curves, layout=four, outcomes=outcomes, styles=styles, unit=unit),
    )
    two = Layout(panels=2, across=2, in_column=2)
    yield Picture(
        name=f"training-{name}",
        title=f"Training loss and consensus distance, {where}",
        caption="Means over workers and runs.",
        layout=two,
        draw=partial(_draw_training, layout=two, outcomes=outcomes, styles=styles),
    )


def _draw_curves(
    figure: Figure,
    *,
    layout: Layout,
    outcomes: Sequence[Outcome],
    styles: Mapping[str, Style],
    unit: Unit,
) -> None:
    panels = layout.axes(figure, sharey=True)
    for panel, axis in zip(panels, AXES, strict=True):
        reach: list[float] = []
        for outcome in outcomes:
            xs, ys, errors = _mean_curve(outcome.results, axis, "error")
            if not xs:
                continue
            style = styles[outcome.arm]
            ys, errors = [unit.scale * y for y in ys], [unit.scale * e for e in errors]
            panel.plot(xs, ys, label=outcome.arm, **style.line)
            low = [y - e for y, e in zip(ys, errors, strict=True)]
            high = [y + e for y, e in zip(ys, errors, strict=True)]
            panel.fill_between(xs, low, high, color=style.colour, alpha=0.15, linewidth=0)
            reach.append(xs[-1])
        if spread_out(reach, 5.0):
            log_scale(panel, "x")
        panel.set_xlabel(axis_label(axis))
    if spread_out(panels[0].get_ylim(), 10.0):
        log_scale(panels[0], "y")
    for panel in panels[::2]:
        panel.set_ylabel(unit.label)
    legend_below(figure, panels[0])


def _mean_curve(
    results: Sequence[Result], axis: str, column: str
) -> tuple[list[float], list[float], list[float]]:
    """Means over seeds, point by point, of runs with the most common number of points."""
    whole = [r.curve for r in results if r.error is not None]
    if not whole:
        return [], [], []
    usual = statistics.mode(len(curve.steps) for curve in whole)
    same_length = [curve for curve in whole if len(curve.steps) == usual]
    xs, ys, errors = [], [], []
    for i in range(usual):
        values = [v for v in (curve.column(column)[i] for curve in same_length) if v is not None]
        if values:
            mean = mean_of(values)
            x = statistics.fmean(curve.column(axis)[i] for curve in same_length)
            xs.append(x * _SCALES.get(axis, 1.0))
            ys.append(mean.mean)
            errors.append(mean.error if mean.number > 1 else 0.0)
    return xs, ys, errors


def _draw_training(
    figure: Figure, *, layout: Layout, outcomes: Sequence[Outcome], styles: Mapping[str, Style]
) -> None:
    left, right = layout.axes(figure)
    for panel, column, label in (
        (left, "loss", "training loss"),
        (right, "distance", "consensus distance (L2)"),
    ):
        for outcome in outcomes:
            xs, ys, _ = _mean_curve(outcome.results, "steps", column)
            if ys and (column == "loss" or max(ys) > 0.0):
                panel.plot(xs, ys, label=outcome.arm, **styles[outcome.arm].line)
        panel.set_xlabel(axis_label("steps"))
        panel.set_ylabel(label)
    if left.get_ylim()[0] <= 0 or spread_out(left.get_ylim()):
        log_scale(left, "y")
    legend_below(figure, left)


def _draw_weights(figure: Figure, *, layout: Layout, outcomes: Sequence[Outcome]) -> None:
    panels = layout.axes(figure, sharey=True)
    for panel, outcome in zip(panels, outcomes, strict=True):
        tables = _alike([r.weights for r in outcome.results if r.weights])
        length = min(len(table["rounds"]) for table in tables)
        rounds = tables[0]["rounds"][:length]
        workers = len(tables[0]["workers"][0])
        for i in range(workers):
            means = [_mean([table["workers"][r][i] for table in tables]) for r in range(length)]
            panel.plot(rounds, means, label=f"worker {i}", **numbered(i).line)
        panel.axhline(1.0 / workers, linestyle=":", linewidth=1, color=GREY)
        panel.set(title=in_lines(outcome.arm), xlabel="round")
        panel.xaxis.get_major_locator().set_params(integer=True)
    panels[0].set_ylabel("weight")
    panels[0].set_ylim(bottom=0.0)
    legend_below(figure, max(panels, key=lambda p: len(p.lines)), 6)


def _draw_layers(figure: Figure, *, layout: Layout, outcomes: Sequence[Outcome]) -> None:
    panels, maps = layout.axes(figure, sharey=True), []
    for outcome in outcomes:
        weights = _alike([r.weights for r in outcome.results if r.weights])
        tables = [table["groups"] for table in weights]
        names = next(r.group_names for r in outcome.results if r.group_names)
        workers = len(tables[0])
        cells = [
            [workers * _mean([t[i][g] for t in tables]) for i in range(workers)]
            for g in range(len(tables[0][0]))
        ]
        maps.append(
            HeatMap(title=in_lines(outcome.arm), cells=cells, rows=names, columns=range(workers))
        )
    draw_heat_maps(figure, panels, maps, "worker")


def _alike(tables: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The weights of runs with as many workers and groups as the first one."""

    def size(table: dict[str, Any]) -> tuple[int, int]:
        return len(table["groups"]), len(table["groups"][0])

    return [table for table in tables if size(table) == size(tables[0])]


def _mean(values: Sequence[float | None]) -> float:
    """The mean; NaN if a value is missing."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if len(known) == len(values) else math.nan
