"""The page of a run, made from its folder."""

from collections.abc import Mapping, Sequence
from typing import Any

from grawa.errors import UserError
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.environment import read_environment
from grawa.lab.experiments.event_lines import read_events, whole_event
from grawa.lab.experiments.run_folder import RunFolder
from grawa.lab.report.console import metric_text
from grawa.lab.report.flatness import run_flatness
from grawa.lab.report.page import Page, Section, facts_of
from grawa.lab.report.run_pictures import run_pictures
from grawa.lab.report.tables import Cell, Table, Unit, amount_text

Events = list[dict[str, Any]]


def run_page(folder: RunFolder) -> Page:
    """The page of a run, also of one that has not finished.

    Args:
        folder: the run's folder.

    Returns:
        The page.

    Raises:
        UserError: if it has no events.
    """
    config = folder.config()
    events, notices = read_events(folder.path / "events.jsonl", whole_event)
    rounds = [event for event in events if event["kind"] == "round"]
    if not rounds:
        raise UserError(f"{folder.path} has no rounds in events.jsonl: there is nothing to report")
    finished = next((e for e in reversed(events) if e["kind"] == "finished"), None)
    if finished is None and events[-1]["kind"] != "diverged":
        notices.append(f"The run has not finished: this is its state after {len(rounds)} rounds.")
    notices += [*_resized(events), *_doubts(events, finished)]
    flatness, unread = run_flatness(folder.path)
    about, unknown = read_environment(folder.path)
    unit = Unit("error" if finished is None else finished["metric"])
    return Page(
        title=f"{config.task}, {config.strategy}",
        subtitle=_subtitle(config, finished),
        notices=notices + unread + unknown,
        sections=[
            Section(title="Training", pictures=run_pictures(config, events, unit)),
            Section(
                title="In numbers",
                tables=[_totals(config, events, finished), *_left_out(rounds), *flatness],
            ),
        ],
        facts={**facts_of(about), "options": _options(config)},
    )


def _resized(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """Since when there were other workers or processes, if the run was resumed with others."""
    starts = [event for event in events if event["kind"] == "started" and event.get("resized")]
    return [f"Since round {event['round']}: {event['resized']}." for event in starts]


def _doubts(events: Sequence[Mapping[str, Any]], finished: Mapping[str, Any] | None) -> list[str]:
    """Why the result should not be trusted; runs of earlier versions don't say."""
    if events[-1]["kind"] == "diverged":
        step = events[-1]["step"]
        return [f"Training has diverged: after step {step} the model was not finite."]
    return (
        [] if finished is None else [f"Warning: {doubt}." for doubt in finished.get("doubts", ())]
    )


def _subtitle(config: TrainConfig, finished: Mapping[str, Any] | None) -> str:
    faults = f" Faults: {', '.join(config.fault)}." if config.fault else ""
    end = "" if finished is None else f" Ended at {metric_text(finished)} {finished['metric']}."
    return (
        f"{config.workers} workers, a round every {config.sync_every} local steps, seed "
        f"{config.seed}.{end}{faults}"
    )


def _options(config: TrainConfig) -> str:
    return ", ".join(f"{name} {value}" for name, value in config.as_toml().items() if value != ())


def _totals(
    config: TrainConfig, events: Sequence[Mapping[str, Any]], finished: Mapping[str, Any] | None
) -> Table:
    rounds = [event for event in events if event["kind"] == "round"]
    starts = [event for event in events if event["kind"] == "started"]
    started: Mapping[str, Any] = starts[-1] if starts else {}
    last = finished or rounds[-1]
    blocked = sum(event["exposed_seconds"] for event in rounds)
    time = "modelled time" if config.clock == "virtual" else "time"
    values = {
        "parameters": f"{started.get('parameters', 0):,}",
        "processes": str(started.get("processes", "-")),
        "local steps per worker": f"{last['step']:,}",
        "rounds": f"{last['round']:,}",
        "sent by a worker": amount_text("bytes", sum(e["bytes_sent"] for e in rounds)),
        f"{time} in total": amount_text("time", last["elapsed"]),
        f"{time} in which local steps were blocked": amount_text("time", blocked),
    }
    if finished is not None:
        values = {f"{finished['metric']} of the consensus": metric_text(finished), **values}
    return Table(
        name="totals",
        title="Totals",
        columns=[("what", False), ("value", True)],
        rows=[[Cell(text=name), Cell(text=value)] for name, value in values.items()],
    )


def _left_out(rounds: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Which workers were left out of the center: what holds now, why, since when, how often."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for event in rounds:
        for worker in event["left_out"]:
            found.setdefault(worker, []).append(event)
    if not found:
        return []
    rows = [
        [
            Cell(text=worker, value=float(worker)),
            Cell(text=_state_now(worker, rounds[-1])),
            Cell(text=str(since := _since(worker, rounds)), value=float(since)),
            Cell(text=f"{len(those)} of {len(rounds)}", value=float(len(those))),
            Cell(text=str(those[0]["round"]), value=float(those[0]["round"])),
            Cell(text=_why(worker, those)),
        ]
        for worker, those in sorted(found.items(), key=lambda item: int(item[0]))
    ]
    columns = [
        ("worker", True), ("at the end", False), ("since round", True), ("rounds left out", True),
        ("first in", True), ("why, the last time", False),
    ]  # fmt: skip
    return [
        Table(
            name="left-out",
            title="Workers that were left out of the center",
            columns=columns,
            rows=rows,
        )
    ]


def _state_now(worker: str, last: Mapping[str, Any]) -> str:
    return _state(worker, last) if worker in last["left_out"] else "takes part"


def _state(worker: str, event: Mapping[str, Any]) -> str:
    absence = event.get("absences", {}).get(worker, {})  # missing in runs of earlier versions
    return str(absence.get("state", "left out"))


def _why(worker: str, those: Sequence[Mapping[str, Any]]) -> str:
    """The last reason that is not probation after another one."""
    caused = [event for event in those if _state(worker, event) != "on probation"]
    return str((caused or those)[-1]["left_out"][worker])


def _since(worker: str, rounds: Sequence[Mapping[str, Any]]) -> int:
    """The round since which the worker has been left out, or has taken part again."""
    now = worker in rounds[-1]["left_out"]
    since = rounds[-1]["round"]
    for event in reversed(rounds):
        if (worker in event["left_out"]) != now:
            break
        since = event["round"]
    return int(since)
