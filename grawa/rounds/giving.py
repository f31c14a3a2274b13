"""Gives the state of a job to workers that join it."""

from collections.abc import Callable

import torch
from torch import Tensor

from grawa.comm.protocol import Transport
from grawa.comm.quorum import Decision
from grawa.math.leaves import Leaves, Stack
from grawa.rounds.assembly import Status
from grawa.rounds.runner import Runner
from grawa.strategies.protocol import State
from grawa.workers.replicas import Replicas
from grawa.workers.start import rows_of


class Giving:
    """Gives workers that join the consensus, and what the strategy keeps between rounds.

    A new worker starts at the consensus, with the frozen parameters and buffers of the one that
    gives. One that has been away keeps what it has learnt since its last round, on top of it.

    Args:
        replicas: the hosted worker.
        runner: has the fragments.
        comm: connects those who are there.
        adopt: takes over the numbers of the one that gives.
    """

    def __init__(
        self,
        replicas: Replicas,
        runner: Runner,
        comm: Transport,
        adopt: Callable[[Status], None],
    ) -> None:
        self._replicas, self._runner, self._comm = replicas, runner, comm
        self._adopt = adopt

    @torch.no_grad()
    def give(self, decision: Decision) -> Callable[[], None]:
        """The exchange; collective among those who are there.

        Returns:
            What a worker that joins does once it has come to its end.
        """
        source, comm = decision.source, self._comm
        active = torch.zeros(comm.num_workers, dtype=torch.bool)
        active[[member.worker for member in decision.leading]] = True
        found: list[tuple[State, Leaves]] = []
        for fragment in self._runner.fragments:
            state = fragment.state_of(source.worker)
            found.append((state, fragment.consensus(active, state=state)))
        new = [m.worker for m in decision.joining if m.job != decision.job]
        stacks = self._replicas.frozen(), self._replicas.buffers.rows()
        others = [rows_of(stack, comm, source.worker) if new else {} for stack in stacks]

        def take() -> None:
            is_new = comm.process in new
            self._take(found, is_new=is_new)
            if is_new:
                for stack, values in zip(stacks, others, strict=True):
                    _put(stack, values)
                self._replicas.buffers.remember()
            self._adopt(source.status)

        return take

    @torch.no_grad()
    def _take(self, found: list[tuple[State, Leaves]], *, is_new: bool) -> None:
        self._runner.local_steps.follow()
        for fragment, (state, consensus) in zip(self._runner.fragments, found, strict=True):
            fragment.take(state, consensus, keep=not is_new)


def _put(stack: Stack, values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        stack[name].copy_(value)
