"""A run's events as a curve, and its weights over rounds."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_ROUNDS_KEPT = 60
"""Most rounds whose weights are stored, evenly spread over a run."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A run at several points; columns of equal length, with `None` for missing values.

    Attributes:
        steps: local steps of a worker.
        rounds: exchanges between the workers, rounds or shared gradients.
        bytes: sent by a worker.
        time: seconds by the run's clock.
        error: the task's metric of the consensus.
        loss: mean training loss of the workers since the previous point.
        distance: consensus distance at the last round.
    """

    steps: list[float] = field(default_factory=list)
    rounds: list[float] = field(default_factory=list)
    bytes: list[float] = field(default_factory=list)
    time: list[float] = field(default_factory=list)
    error: list[float | None] = field(default_factory=list)
    loss: list[float | None] = field(default_factory=list)
    distance: list[float | None] = field(default_factory=list)

    def add(self, **point: float | None) -> None:
        """Adds a point, with a value for every column."""
        for name, column in vars(self).items():
            column.append(point[name])

    def column(self, name: str) -> list[Any]:
        """The column with this name."""
        found: list[Any] = getattr(self, name)
        return found


Events = Sequence[Mapping[str, Any]]
"""Events as in `events.jsonl`."""


def curve_of(
    events: Events, *, fragments: int = 1, talks: Callable[[int], bool] | None = None
) -> Curve:
    """The curve of a run: a point for each measurement of the consensus.

    Args:
        events: in order.
        fragments: number of fragments; one round of each counts as one round.
        talks: whether the workers share gradients at a local step, counted from 0; `None` if they
            never do.

    Returns:
        The curve; its last point is the end of the run.
    """
    curve, tally = Curve(), _Tally(fragments, talks)
    for event in events:
        if event["kind"] == "round":
            tally.add(event)
        elif event["kind"] == "evaluated":
            curve.add(error=event["error"], **tally.point(event["step"]))
        elif event["kind"] == "finished":
            point = tally.point(event["step"])
            if curve.steps and curve.steps[-1] == event["step"]:
                point |= {"loss": point["loss"] if tally.fresh else curve.loss[-1]}
                for column in vars(curve).values():
                    column.pop()
            curve.add(error=event["error"], **{**point, "time": event["elapsed"]})
    return curve


def rounds_curve(
    events: Events, *, fragments: int = 1, talks: Callable[[int], bool] | None = None
) -> Curve:
    """The curve of a run: a point for each round, without errors."""
    curve, tally = Curve(), _Tally(fragments, talks)
    for event in events:
        if event["kind"] == "round":
            tally.add(event)
            curve.add(error=None, **tally.point(event["step"]))
    return curve


class _Tally:
    """Sums over rounds."""

    def __init__(self, fragments: int, talks: Callable[[int], bool] | None) -> None:
        self._fragments, self._talks = fragments, talks
        self._rounds, self._bytes, self._time = 0, 0, 0.0
        self._losses: list[float] = []
        self._loss: float | None = None
        self._distance: float | None = None

    @property
    def fresh(self) -> bool:
        """Whether there were losses since the last point."""
        return bool(self._losses)

    def add(self, event: Mapping[str, Any]) -> None:
        """Adds a round."""
        self._rounds += 1
        self._bytes += event["bytes_sent"]
        self._time = event["elapsed"] + event["round_seconds"]
        self._losses += [loss for loss in event["losses"] if loss is not None]
        if event["consensus_distance"] is not None:
            self._distance = event["consensus_distance"]

    def point(self, step: int) -> dict[str, float | None]:
        """The sums so far, as a point of a curve at a local step."""
        if self._losses:
            self._loss = sum(self._losses) / len(self._losses)
            self._losses = []
        talks = self._talks
        shared = 0 if talks is None else sum(talks(before) for before in range(step))
        own = 0.0 if talks is not None and shared == step else self._rounds / self._fragments
        return {
            "steps": step,
            "rounds": shared + own,
            "bytes": self._bytes,
            "time": self._time,
            "loss": self._loss,
            "distance": self._distance,
        }


def weights_of(events: Events) -> dict[str, Any] | None:
    """Each worker's weight over rounds, reduced to a size that can be stored.

    Args:
        events: of a run.

    Returns:
        "rounds", R round numbers; "workers", (R, N), means over the groups; "groups", (N, G), means
        over the rounds. `None` if the workers counted equally.
    """
    rounds = [e for e in events if e["kind"] == "round" and e["weights"] is not None]
    if not rounds:
        return None
    every = math.ceil(len(rounds) / _ROUNDS_KEPT)
    kept = rounds[every - 1 :: every]
    comparable = [e for e in rounds if len(e["weights"][0]) == len(rounds[0]["weights"][0])]
    return {
        "rounds": [e["round"] for e in kept],
        "workers": [[_mean(row) for row in e["weights"]] for e in kept],
        "groups": [
            [_mean(column) for column in zip(*(e["weights"][i] for e in comparable), strict=True)]
            for i in range(len(rounds[0]["weights"]))
        ],
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 4) if len(known) == len(values) else None
