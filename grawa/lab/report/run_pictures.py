"""Pictures of a run."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.curve import Curve, Events, curve_of, rounds_curve
from grawa.lab.report.condition_pictures import AXIS_LABELS
from grawa.lab.report.drawing import (
    Picture,
    grid_of,
    legend_below,
    line_style,
    log_scale,
    panel_size,
    spread_out,
)
from grawa.lab.report.heat_maps import HeatMap, draw_heat_maps
from grawa.lab.report.tables import Unit


def run_pictures(config: TrainConfig, events: Events, unit: Unit) -> list[Picture]:
    """Errors and losses over time, rounds, bytes and steps; and each worker, round by round.

    Args:
        config: the run's configuration.
        events: the run's events, with at least one round.
        unit: formats errors.

    Returns:
        The pictures, as far as there are data for them.
    """
    measured = curve_of(events, fragments=config.fragments)
    rounds = [event for event in events if event["kind"] == "round"]
    pictures = []
    if len(measured.steps) > 1:
        pictures.append(
            Picture(
                name="error",
                title=f"{unit.metric[:1].upper()}{unit.metric[1:]} of the consensus",
                caption="As measured after rounds (--evaluate-every), and at the end.",
                draw=partial(_draw_four, curve=measured, column="error", label=unit.label,
                             scale=unit.scale),
                size=panel_size(4, 2, 2.4),
            )
        )  # fmt: skip
    by_round = rounds_curve(events, fragments=config.fragments)
    pictures += [
        Picture(
            name="loss",
            title="Training loss",
            caption="Mean over the workers' local steps since the round before.",
            draw=partial(_draw_four, curve=by_round, column="loss", label="training loss"),
            size=panel_size(4, 2, 2.4),
        ),
        Picture(
            name="workers",
            title="Workers, round by round",
            caption="Each worker's loss, its weight in the center, and the consensus distance.",
            draw=partial(_draw_workers, rounds=rounds),
            size=panel_size(3, 3, 2.7),
        ),
    ]
    return [*pictures, *_layers(rounds, events)]


def _layers(rounds: Events, events: Events) -> list[Picture]:
    """The weights of each tensor, of methods that have them."""
    layered = [e for e in rounds if e["weights"] is not None and len(e["weights"][0]) > 1]
    if not layered:
        return []
    workers = len(layered[-1]["weights"])
    started = next((e for e in events if e["kind"] == "started"), {})
    return [
        Picture(
            name="layers",
            title="Weight of each worker, tensor by tensor, over rounds",
            caption="Times the number of workers: 1 is the equal weight.",
            draw=partial(_draw_layers, rounds=layered, names=started.get("tensors", ())),
            size=panel_size(workers, 2, 2.4),
        )
    ]


def _draw_four(
    figure: Figure, *, curve: Curve, column: str, label: str, scale: float = 1.0
) -> None:
    panels = grid_of(figure, len(AXIS_LABELS), 2, sharey=True)
    for panel, (axis, axis_label) in zip(panels, AXIS_LABELS.items(), strict=True):
        pairs = [
            (x * (1e-6 if axis == "bytes" else 1.0), scale * y)
            for x, y in zip(curve.column(axis), curve.column(column), strict=True)
            if y is not None
        ]
        panel.plot([x for x, _ in pairs], [y for _, y in pairs], **line_style(0))
        if spread_out([y for _, y in pairs]):
            log_scale(panel, "y")
        panel.set_xlabel(axis_label)
    for panel in panels[::2]:
        panel.set_ylabel(label)


def _draw_workers(figure: Figure, *, rounds: Sequence[Mapping[str, Any]]) -> None:
    losses, weights, distance = grid_of(figure, 3, 3)
    at = [event["round"] for event in rounds]
    workers = max(len(event["losses"]) for event in rounds)
    for i in range(workers):
        own = [_known(e["losses"][i]) if i < len(e["losses"]) else math.nan for e in rounds]
        losses.plot(at, own, label=f"worker {i}", **line_style(i))
        weights.plot(at, [_share(e, i) for e in rounds], **line_style(i))
    distance.plot(at, [_known(e["consensus_distance"]) for e in rounds], **line_style(0))
    equal = [1.0 / len(event["losses"]) for event in rounds]  # a run can be resumed with others
    weights.plot(at, equal, linestyle=":", linewidth=1, color="#7F7F7F")
    weights.set_ylim(bottom=0.0)
    for panel, label in (
        (losses, "training loss"), (weights, "weight"), (distance, "consensus distance"),
    ):  # fmt: skip
        panel.set(xlabel="round", ylabel=label)
    legend_below(figure, losses, 6)


def _known(value: float | None) -> float:
    """A number to draw, which leaves a gap where it is missing."""
    return math.nan if value is None else float(value)


def _share(event: Mapping[str, Any], worker: int) -> float:
    """A worker's mean weight in a round; NaN for one that the round did not have."""
    workers = len(event["losses"])
    if worker >= workers:
        return math.nan
    if event["weights"] is None:
        return 1.0 / workers
    own = [_known(weight) for weight in event["weights"][worker]]
    return sum(own) / len(own)


def _draw_layers(
    figure: Figure, *, rounds: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> None:
    workers, groups = _form(rounds[-1])
    rows = list(names) if len(names) == groups else [f"group {g}" for g in range(groups)]
    comparable = [event for event in rounds if _form(event) == (workers, groups)]
    maps = [
        HeatMap(
            title=f"worker {i}",
            cells=[
                [workers * _known(e["weights"][i][g]) for e in comparable] for g in range(groups)
            ],
            rows=rows,
            columns=[e["round"] for e in comparable],
        )
        for i in range(workers)
    ]
    draw_heat_maps(figure, grid_of(figure, workers, 2, sharey=True), maps, "round")


def _form(event: Mapping[str, Any]) -> tuple[int, int]:
    """Of how many workers a round has weights, and of how many groups."""
    return len(event["weights"]), len(event["weights"][0])
