"""Who is left out of rounds, why, and since when; and who was fit for how long."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from grawa.rounds.guard import Guard, Verdict

State = Literal["reset", "left out", "on probation", "dropped", "absent"]

ABSENT, HAS_COME = "absent", "has just come"
"""Why an elastic worker is left out that is not there, or that has just come."""

_NEVER = -1e18
"""The step until which a worker was unfit that never was; finite, for JSON."""


@dataclass(frozen=True, kw_only=True)
class Absence:
    """A worker that has no part in the center.

    Attributes:
        state: "reset" to the consensus in this round, "left out" for its loss or displacement,
            "on probation" after either, "dropped" for good, or "absent".
        why: the guard's reason in this round.
        since: the first round in which it was left out without a break until now.
        in_a_row: rounds since then, this one included.
        in_total: rounds in which it was left out since the start.
        is_due: whether it is to be reported now, once for this time out; see `Guard.report_after`.
    """

    state: State
    why: str
    since: int
    in_a_row: int
    in_total: int
    is_due: bool

    def __str__(self) -> str:
        dropped = ", and is dropped for good" if self.state == "dropped" else ""
        return (
            f"has been left out of {self.in_a_row} rounds in a row, since round {self.since}"
            f"{dropped}: {self.why}"
        )


class Attendance:
    """Counts the rounds in which each worker was left out; the same on every process.

    Args:
        num_workers: N.
        num_fragments: P.
        overlap_steps: local steps before what a round decides takes effect.
        guard: says when a worker is reported, and whether it is then dropped.

    Attributes:
        dropped: (N,), true for workers that are left out for good.
    """

    def __init__(
        self, num_workers: int, num_fragments: int, overlap_steps: int, guard: Guard | None
    ) -> None:
        self._overlap_steps = overlap_steps
        self._limit = None if guard is None else guard.report_after * num_fragments
        self._drops = guard is not None and guard.drop
        self._in_a_row, self._in_total = [0] * num_workers, [0] * num_workers
        self._unfit_until = torch.full((num_workers,), _NEVER, dtype=torch.float64, device="cpu")
        """The step from which a worker's steps count as made while it was fit."""
        self.dropped = torch.zeros(num_workers, dtype=torch.bool, device="cpu")

    def fit_steps(self, steps: Tensor) -> Tensor:
        """Local steps of each worker since it was last unfit, (N,), after these steps in all."""
        return (steps - self._unfit_until).clamp_min(0.0)

    def note(self, round_number: int, steps: Tensor, verdict: Verdict) -> dict[int, Absence]:
        """Called after each round.

        Args:
            round_number: the round's number.
            steps: local steps of each worker when it began, (N,).
            verdict: the guard's decision.

        Returns:
            Worker -> its absence.
        """
        self._unfit_until[verdict.unfit] = steps[verdict.unfit] + self._overlap_steps
        found: dict[int, Absence] = {}
        for i in range(len(self._in_a_row)):
            self._in_a_row[i] = self._in_a_row[i] + 1 if i in verdict.left_out else 0
            if i not in verdict.left_out:
                continue
            self._in_total[i] += 1
            is_due = self._in_a_row[i] == self._limit
            self.dropped[i] |= is_due and self._drops and verdict.left_out[i] != ABSENT
            found[i] = Absence(
                state=_state(i, verdict, dropped=bool(self.dropped[i])),
                why=verdict.left_out[i],
                since=round_number - self._in_a_row[i] + 1,
                in_a_row=self._in_a_row[i],
                in_total=self._in_total[i],
                is_due=is_due,
            )
        return found

    def state_dict(self) -> dict[str, list[Any]]:
        """What must be saved so that training resumes bit for bit; plain, also as JSON."""
        return {
            "in_a_row": list(self._in_a_row),
            "in_total": list(self._in_total),
            "unfit_until": self._unfit_until.tolist(),
            "dropped": self.dropped.tolist(),
        }

    def load_state_dict(self, state: Mapping[str, list[Any]]) -> None:
        """Restores what `state_dict` returned."""
        self._in_a_row, self._in_total = list(state["in_a_row"]), list(state["in_total"])
        self._unfit_until = torch.tensor(state["unfit_until"], dtype=torch.float64, device="cpu")
        self.dropped = torch.tensor(state["dropped"], dtype=torch.bool, device="cpu")


def _state(worker: int, verdict: Verdict, *, dropped: bool) -> State:
    if dropped:
        return "dropped"
    if verdict.left_out[worker] == ABSENT:
        return "absent"
    if bool(verdict.reset[worker]):
        return "reset"
    return "left out" if bool(verdict.unfit[worker]) else "on probation"
