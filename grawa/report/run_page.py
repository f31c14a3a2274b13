"""The page of a run, from its folder alone."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from grawa.errors import UserError
from grawa.experiments.config import TrainConfig
from grawa.experiments.curve import Curve, curve_of, rounds_curve
from grawa.experiments.run_folder import RunFolder
from grawa.experiments.study_folder import read_json, read_line
from grawa.report.console import metric_text
from grawa.report.drawing import (
    Picture,
    grid_of,
    legend_below,
    line_style,
    log_scale,
    panel_size,
    spread_out,
)
from grawa.report.heat_maps import HeatMap, draw_heat_maps
from grawa.report.page import Page, Section, facts_of
from grawa.report.study_pictures import AXIS_LABELS
from grawa.report.tables import Cell, Table, Unit, amount_text

Events = list[dict[str, Any]]


def run_page(folder: RunFolder) -> Page:
    """What is known of a run, also of one that has not finished.

    Args:
        folder: of the run.

    Returns:
        The page.

    Raises:
        UserError: if it has no events.
    """
    config = folder.config()
    events, notices = _events(folder)
    rounds = [event for event in events if event["kind"] == "round"]
    if not rounds:
        raise UserError(f"{folder.path} has no rounds in events.jsonl: there is nothing to report")
    finished = next((e for e in reversed(events) if e["kind"] == "finished"), None)
    if finished is None:
        notices.append(f"The run has not finished: this is its state after {len(rounds)} rounds.")
    about = facts_of(read_json(folder.path / "environment.json"))
    unit = Unit("error" if finished is None else finished["metric"])
    return Page(
        title=f"{config.task}, {config.strategy}",
        subtitle=_subtitle(config, finished),
        notices=notices,
        sections=[
            Section(title="Training", pictures=_pictures(config, events, unit)),
            Section(title="In numbers", tables=[_totals(events, finished), *_left_out(rounds)]),
        ],
        facts={**about, "options": _options(config)},
    )


def _events(folder: RunFolder) -> tuple[Events, list[str]]:
    """All whole lines, and a notice if some are not; rounds made twice count once."""
    path = folder.path / "events.jsonl"
    if not path.is_file():
        raise UserError(f"{folder.path} has no events.jsonl: there is nothing to report")
    lines = [read_line(line) for line in path.read_text("utf-8", errors="replace").splitlines()]
    whole = [line for line in lines if line is not None and "kind" in line]
    cut = len(lines) - len(whole)
    return whole, [f"{cut} lines of events.jsonl were cut short and left out."] if cut else []


def _subtitle(config: TrainConfig, finished: Mapping[str, Any] | None) -> str:
    faults = f" Faults: {', '.join(config.fault)}." if config.fault else ""
    end = "" if finished is None else f" Ended at {metric_text(finished)} {finished['metric']}."
    return (
        f"{config.workers} workers, a round every {config.sync_every} local steps, seed "
        f"{config.seed}.{end}{faults}"
    )


def _options(config: TrainConfig) -> str:
    return ", ".join(f"{name} {value}" for name, value in config.as_toml().items() if value != ())


def _totals(events: Sequence[Mapping[str, Any]], finished: Mapping[str, Any] | None) -> Table:
    rounds = [event for event in events if event["kind"] == "round"]
    started = next((e for e in events if e["kind"] == "started"), {})
    last = finished or rounds[-1]
    values = {
        "parameters": f"{started.get('parameters', 0):,}",
        "processes": str(started.get("processes", "-")),
        "local steps per worker": f"{last['step']:,}",
        "rounds": f"{last['round']:,}",
        "sent by a worker": amount_text("bytes", sum(e["bytes_sent"] for e in rounds)),
        "time in all": amount_text("time", last["elapsed"]),
        "local steps held up": amount_text("time", sum(e["exposed_seconds"] for e in rounds)),
    }
    if finished is not None:
        values = {f"{finished['metric']} of the consensus": metric_text(finished), **values}
    return Table(
        title="Totals",
        columns=[("what", False), ("value", True)],
        rows=[[Cell(text=name), Cell(text=value)] for name, value in values.items()],
    )


def _left_out(rounds: Sequence[Mapping[str, Any]]) -> list[Table]:
    """How often workers had no part in the center, and first why."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for event in rounds:
        for worker in event["left_out"]:
            found.setdefault(worker, []).append(event)
    if not found:
        return []
    rows = [
        [
            Cell(text=worker, value=float(worker)),
            Cell(text=f"{len(those)} of {len(rounds)}", value=float(len(those))),
            Cell(text=str(those[0]["round"]), value=float(those[0]["round"])),
            Cell(text=those[0]["left_out"][worker]),
        ]
        for worker, those in sorted(found.items(), key=lambda item: int(item[0]))
    ]
    columns = [("worker", True), ("rounds left out", True), ("first in", True), ("why", False)]
    return [Table(title="Workers that were left out of the center", columns=columns, rows=rows)]


def _pictures(config: TrainConfig, events: Events, unit: Unit) -> list[Picture]:
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
            caption="Each worker's loss, its weight in the center, and how far they are apart.",
            draw=partial(_draw_workers, rounds=rounds),
            size=panel_size(3, 3, 2.7),
        ),
    ]
    layered = [e for e in rounds if e["weights"] is not None and len(e["weights"][0]) > 1]
    if layered:
        workers = len(layered[0]["weights"])
        pictures.append(
            Picture(
                name="layers",
                title="Weight of each worker, tensor by tensor, over rounds",
                caption="Times the number of workers: 1 is the equal weight.",
                draw=partial(_draw_layers, rounds=layered),
                size=panel_size(workers, 2, 2.4),
            )
        )
    return pictures


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
    workers = len(rounds[0]["losses"])
    for i in range(workers):
        own = [math.nan if e["losses"][i] is None else e["losses"][i] for e in rounds]
        losses.plot(at, own, label=f"worker {i}", **line_style(i))
        shares = [
            1.0 / workers if e["weights"] is None else sum(e["weights"][i]) / len(e["weights"][i])
            for e in rounds
        ]
        weights.plot(at, shares, **line_style(i))
    apart = [
        math.nan if e["consensus_distance"] is None else e["consensus_distance"] for e in rounds
    ]
    distance.plot(at, apart, **line_style(0))
    weights.axhline(1.0 / workers, linestyle=":", linewidth=1, color="#7F7F7F")
    weights.set_ylim(bottom=0.0)
    for panel, label in (
        (losses, "training loss"), (weights, "weight"), (distance, "consensus distance"),
    ):  # fmt: skip
        panel.set(xlabel="round", ylabel=label)
    legend_below(figure, losses, 6)


def _draw_layers(figure: Figure, *, rounds: Sequence[Mapping[str, Any]]) -> None:
    workers = len(rounds[0]["weights"])
    groups = len(rounds[0]["weights"][0])
    alike = [e for e in rounds if len(e["weights"][0]) == groups]
    maps = [
        HeatMap(
            title=f"worker {i}",
            cells=[[workers * e["weights"][i][g] for e in alike] for g in range(groups)],
            rows=[f"tensor {g}" for g in range(groups)],
            columns=[e["round"] for e in alike],
        )
        for i in range(workers)
    ]
    draw_heat_maps(figure, grid_of(figure, workers, 2, sharey=True), maps, "round")
