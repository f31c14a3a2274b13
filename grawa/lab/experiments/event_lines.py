"""What the lines of `events.jsonl` hold, and reading them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grawa.errors import UserError
from grawa.lab.records import damage_notices, read_lines
from grawa.lab.shapes import (
    Shape,
    grid,
    is_worker,
    listed,
    mapping,
    number,
    optional,
    same_lengths,
    table,
    text,
    whole,
)

_SECONDS = number(0.0)

_PLACE = {"step": whole(), "round": whole(), "elapsed": _SECONDS}
"""Where in the run an event happened."""


def _check_round(event: Mapping[str, Any]) -> str | None:
    """Lists of a round have an entry for each worker."""
    if event["weights"] is None:
        return None
    return same_lengths(event, "losses", "weights")


_KINDS = {
    "started": table(
        {},
        {"parameters": whole(), "processes": whole(1), "tensors": listed(text)},
    ),
    "round": table(
        {
            **_PLACE,
            "losses": listed(optional(number()), least=1),
            "weights": optional(grid(optional(number()))),
            "consensus_distance": optional(number(0.0)),
            "left_out": mapping(text, key=is_worker),
            "bytes_sent": whole(),
            "round_seconds": _SECONDS,
            "exposed_seconds": _SECONDS,
        },
        {
            "compute_seconds": _SECONDS,
            "center_cosine": optional(number(-1.0, 1.0)),
            "displacement_spread": optional(number(0.0)),
        },
        _check_round,
    ),
    "evaluated": table({**_PLACE, "error": optional(number())}),
    "finished": table(
        {
            **_PLACE,
            "metric": text,
            "error": optional(number()),
            "bytes_sent": whole(),
            "compute_seconds": _SECONDS,
            "round_seconds": _SECONDS,
            "exposed_seconds": _SECONDS,
        },
        {"averaged_rounds": whole()},
    ),
}
"""Kind of event -> its shape. Other kinds are not looked at."""

ANY_EVENT = table({"kind": text}, {"step": whole()})
"""What every line has."""


def whole_event(value: object, name: str) -> str | None:
    """The shape of an event with all that a page shows of it."""
    complaint = ANY_EVENT(value, name)
    if complaint is not None or not isinstance(value, dict):
        return complaint
    shape = _KINDS.get(value["kind"])
    return None if shape is None else shape(value, name)


def read_events(path: Path, shape: Shape = ANY_EVENT) -> tuple[list[dict[str, Any]], list[str]]:
    """Reads the events of a run.

    Args:
        path: the file `events.jsonl`.
        shape: of each event.

    Returns:
        All whole events, and a notice if other lines are damaged, as the last one is after a crash.

    Raises:
        UserError: if there is no such file, or it can't be read.
    """
    if not path.exists():
        raise UserError(f"{path.parent} has no events.jsonl, the record of a run's rounds")
    lines = read_lines(path, shape)
    cut = lines.incomplete
    notices = [f"{cut} lines of events.jsonl are incomplete and were ignored."] if cut else []
    return lines.entries, notices + damage_notices(lines.damaged, path.name)
