"""How far the workers are in the schedule, and how soon a round is due."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from grawa.comm.protocol import Transport
from grawa.rounds.schedule import Timetable


class Progress:
    """Counts local steps for the schedule: this process's, or all workers' together.

    Args:
        comm: connects all workers.
        timetable: when rounds are due.
        together: whether all workers' steps are counted together.

    Attributes:
        total: local steps of all workers as far as this process knows, if they are counted so.
    """

    def __init__(self, comm: Transport, timetable: Timetable, *, together: bool) -> None:
        self._comm, self._timetable, self._together = comm, timetable, together
        self.total = 0
        self._before = 0
        """Steps of all workers that the shared count leaves out, since all know them already."""
        self._seen = [(0.0, 0.0)] * comm.num_hosted
        """Where the schedule was after each hosted worker's last step, and before that one."""

    def position(self, step: int) -> float:
        """Local steps so far: `step`, or those of all workers, on average, if counted together."""
        return self.total / self._comm.num_workers if self._together else step

    def advance(self, workers: slice, step: int) -> None:
        """Counts a local step of these hosted workers, after which they have made so many."""
        if not self._together:
            return
        self.total = self._before + self._comm.count(len(self._seen[workers]))
        now = self.position(step)
        self._seen[workers] = [(now, before) for before, _ in self._seen[workers]]

    def left(self, workers: slice, step: int) -> float:
        """Local steps of these workers from the next one to the next round.

        With steps counted together this is a guess by how far all had come between the last two.

        Returns:
            How many there are, without the next one.
        """
        now, before = self._seen[workers][0]
        pace = (now - before) or 1.0
        return (self._timetable.due - self.position(step)) / pace - 1

    def uncount(self, skipped: Tensor) -> None:
        """Subtracts local steps, (K,), that turned out to have been skipped."""
        if self._together:
            self.total = self._before + self._comm.count(-int(skipped.sum()))

    def reset(self, steps: Sequence[int]) -> None:
        """Starts the count of all workers anew, with these steps of the hosted ones."""
        if self._together:
            self._before = 0
            self._comm.reset_count(sum(steps))

    def restart(self, steps: Sequence[int]) -> None:
        """As `reset`, but all know at once how many there are together; collective."""
        if self._together:
            own = torch.tensor(steps, dtype=torch.float64, device="cpu").unsqueeze(1)
            self._before = self.total = int(self._comm.gather(own)().sum())
            self._comm.reset_count(0)

    def state_dict(self) -> dict[str, Any]:
        """What must be saved so that training resumes bit for bit."""
        return {"seen": list(self._seen)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned; `restart` must follow."""
        self._seen = [(float(now), float(before)) for now, before in state["seen"]]
