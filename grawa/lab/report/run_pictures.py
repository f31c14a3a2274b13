"""Pictures of a run."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.curve import Curve, Events, curve_of, rounds_curve
from grawa.lab.report.colours import GREY, INK, method_colour, numbered
from grawa.lab.report.condition_pictures import AXES, axis_label
from grawa.lab.report.drawing import Picture
from grawa.lab.report.heat_maps import HeatMap, draw_heat_maps
from grawa.lab.report.layout import Layout, legend_below, log_scale, spread_out
from grawa.lab.report.tables import Unit

_FOUR = Layout(panels=len(AXES), across=2, in_column=2, height=2.4)
_WORKERS_CAPTION = (
    "Each worker's loss, its weight in the center, and the consensus distance; the cosine between "
    "successive moves of the center, and the spread of the lengths of the workers' displacements."
)
_WORKERS = Layout(panels=4, across=2, in_column=2, height=2.4)


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
                layout=_FOUR,
                draw=partial(
                    _draw_four,
                    curve=measured,
                    column="error",
                    label=unit.label,
                    config=config,
                    scale=unit.scale,
                ),
            )
        )
    by_round = rounds_curve(events, fragments=config.fragments)
    pictures += [
        Picture(
            name="loss",
            title="Training loss",
            caption="Mean over the workers' local steps since the round before.",
            layout=_FOUR,
            draw=partial(
                _draw_four, curve=by_round, column="loss", label="training loss", config=config
            ),
        ),
        Picture(
            name="workers",
            title="Workers, round by round",
            caption=_WORKERS_CAPTION,
            layout=_WORKERS,
            draw=partial(_draw_workers, rounds=rounds),
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
    layout = Layout(panels=workers, across=2, height=2.4)
    return [
        Picture(
            name="layers",
            title="Weight of each worker, tensor by tensor, over rounds",
            caption="Times the number of workers: 1 is the equal weight.",
            layout=layout,
            draw=partial(
                _draw_layers, layout=layout, rounds=layered, names=started.get("tensors", ())
            ),
        )
    ]


def _draw_four(
    figure: Figure,
    *,
    curve: Curve,
    column: str,
    label: str,
    config: TrainConfig,
    scale: float = 1.0,
) -> None:
    panels = _FOUR.axes(figure, sharey=True)
    colour, is_modelled = method_colour(config.strategy), config.clock == "virtual"
    for panel, axis in zip(panels, AXES, strict=True):
        pairs = [
            (x * (1e-6 if axis == "bytes" else 1.0), scale * y)
            for x, y in zip(curve.column(axis), curve.column(column), strict=True)
            if y is not None
        ]
        panel.plot([x for x, _ in pairs], [y for _, y in pairs], color=colour)
        if spread_out([y for _, y in pairs]):
            log_scale(panel, "y")
        panel.set_xlabel(axis_label(axis, is_modelled=is_modelled))
    for panel in panels[::2]:
        panel.set_ylabel(label)


def _draw_workers(figure: Figure, *, rounds: Sequence[Mapping[str, Any]]) -> None:
    losses, weights, distance, moves = _WORKERS.axes(figure)
    at = [event["round"] for event in rounds]
    workers = max(len(event["losses"]) for event in rounds)
    for i in range(workers):
        own = [_known(e["losses"][i]) if i < len(e["losses"]) else math.nan for e in rounds]
        losses.plot(at, own, label=f"worker {i}", **numbered(i).line)
        weights.plot(at, [_share(e, i) for e in rounds], **numbered(i).line)
    distance.plot(at, [_known(e["consensus_distance"]) for e in rounds], color=INK)
    equal = [1.0 / len(event["losses"]) for event in rounds]  # a run can be resumed with others
    weights.plot(at, equal, linestyle=":", linewidth=1, color=GREY)
    weights.set_ylim(bottom=0.0)
    for name, label, line in (
        ("center_cosine", "cosine of the center", "-"),
        ("displacement_spread", "spread of workers", "--"),
    ):  # fmt: skip
        moves.plot(at, [_known(e.get(name)) for e in rounds], line, color=INK, label=label)
    moves.legend()
    for panel, label in (
        (losses, "training loss"), (weights, "weight"), (distance, "consensus distance (L2)"),
        (moves, "moves"),
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
    figure: Figure, *, layout: Layout, rounds: Sequence[Mapping[str, Any]], names: Sequence[str]
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
    draw_heat_maps(figure, layout.axes(figure, sharey=True), maps, "round")


def _form(event: Mapping[str, Any]) -> tuple[int, int]:
    """Of how many workers a round has weights, and of how many groups."""
    return len(event["weights"]), len(event["weights"][0])
