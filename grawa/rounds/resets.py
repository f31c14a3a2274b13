"""Workers that the guard resets start again from the consensus."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from grawa.comm.participants import Participants
from grawa.comm.protocol import Transport
from grawa.math.leaves import Rows
from grawa.rounds.fragment import Fragment
from grawa.rounds.guard import Verdict
from grawa.rounds.roll_call import Roll
from grawa.workers.buffers import average, states_of
from grawa.workers.optimizer_state import clear_state
from grawa.workers.replicas import Replicas


class Restart(NamedTuple):
    """What workers start again from."""

    params: dict[str, Tensor]
    buffers: dict[str, Tensor]


class Resets:
    """Finds what workers that are reset start again from, and puts them there.

    Args:
        replicas: the hosted workers.
        comm: connects all workers.
        fragments: of the model.
        averages_buffers: whether buffers are averaged.
    """

    def __init__(
        self,
        replicas: Replicas,
        comm: Transport,
        fragments: Sequence[Fragment],
        *,
        averages_buffers: bool,
    ) -> None:
        self._replicas, self._comm, self._fragments = replicas, comm, fragments
        self._averages_buffers = averages_buffers

    def averaged(self, buffers: Rows, roll: Roll, verdict: Verdict) -> dict[str, Tensor]:
        """The buffers that have changed, averaged; collective."""
        if not buffers:
            return {}
        workers = Participants(self._comm, verdict.active)
        states = states_of(roll.marks)
        return average(
            buffers, states, verdict.active, workers, lambda rows: self._comm.gather(rows)()
        )

    def restart(
        self, roll: Roll, verdict: Verdict, index: int | None = None, params: Rows | None = None
    ) -> Restart:
        """What workers start again from; collective.

        Args:
            roll: what the workers reported.
            verdict: the guard's.
            index: the fragment whose round is not committed yet, if there is one.
            params: what that round has made of the hosted workers' parameters.

        Returns:
            The consensus, and buffers.
        """
        leaves: dict[str, Tensor] = {}
        for i, fragment in enumerate(self._fragments):
            if i == index and params is not None:
                leaves.update(fragment.consensus_after(verdict.active, params))
            else:
                leaves.update(fragment.consensus(verdict.active))
        rows = self._replicas.buffers.rows() if self._averages_buffers else Rows()
        return Restart(leaves, self.averaged(rows, roll, verdict))

    def put(self, found: Restart, workers: Sequence[int]) -> None:
        """Restarts these hosted workers, without their optimizers' state."""
        for fragment in self._fragments:
            values = [found.params[name] for name in fragment.params]
            for k in workers:
                torch._foreach_copy_([rows[k] for rows in fragment.params.values()], values)
        self._replicas.buffers.put(found.buffers, workers)
        for k in workers:
            for optimizer in self._replicas.optimizers[k]:
                clear_state(optimizer)
