"""What a round tells the outside: callbacks, logs, progress and plots."""

import time
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from grawa.protocols import Communicator
from grawa.roll import Roll
from grawa.rounds import Outcome


@dataclass(frozen=True, kw_only=True)
class RoundReport:
    """One round, as every process saw it; seconds are this process's own.

    Attributes:
        round: its number, from 1.
        step: local steps made by then.
        weights: (N, G), columns sum to 1; `None` where the workers count equally.
        scores: (N, G), as reported; `None` where the strategy asks for none.
        losses: (N,), mean training loss since the last round; NaN where it is not known.
        consensus_distance: root mean square over the workers that take part of the L2 distance
            to the round's center, before the pull; `None` if not measured, or without a mean.
        left_out: worker -> why it has no part in the center.
        bytes_sent: since the last round, or the start, and in this round; per hosted worker.
        compute_seconds: since the end of the last round.
        wait_seconds: from the start of the round until the last worker had joined it.
        round_seconds: the whole round, with the wait.
    """

    round: int
    step: int
    weights: Tensor | None
    scores: Tensor | None
    losses: Tensor
    consensus_distance: float | None
    left_out: dict[int, str]
    bytes_sent: int
    compute_seconds: float
    wait_seconds: float
    round_seconds: float

    def as_json(self) -> dict[str, Any]:
        """Plain numbers, lists and strings; what is not finite becomes `None`."""
        plain = {name: _plain(value) for name, value in vars(self).items()}
        return {**plain, "left_out": {str(k): why for k, why in self.left_out.items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not (abs(value) < float("inf")):
        return None
    return value


class Reporter:
    """Keeps time and counts bytes between round reports.

    Args:
        comm: what counts the bytes.
    """

    def __init__(self, comm: Communicator) -> None:
        self._comm = comm
        self._bytes_before = 0
        self.local_steps_begin()

    def local_steps_begin(self) -> None:
        """The workers train by themselves from now on."""
        self._training_since = time.perf_counter()

    def round_begins(self) -> None:
        """The roll is about to be called."""
        self._called = time.perf_counter()

    def all_are_there(self) -> None:
        """Every worker has answered."""
        self._answered = time.perf_counter()

    def report(self, round_number: int, step: int, roll: Roll, outcome: Outcome) -> RoundReport:
        """The report of a round that has just ended; local steps begin."""
        now = time.perf_counter()
        sent = self._comm.bytes_sent
        report = RoundReport(
            round=round_number,
            step=step,
            weights=outcome.weights,
            scores=roll.health.scores,
            losses=roll.health.losses,
            consensus_distance=outcome.consensus_distance,
            left_out=outcome.verdict.left_out,
            bytes_sent=sent - self._bytes_before,
            compute_seconds=self._called - self._training_since,
            wait_seconds=self._answered - self._called,
            round_seconds=now - self._called,
        )
        self._bytes_before = sent
        self.local_steps_begin()
        return report
