"""Rounds of the optimizers' state: it is averaged, or cleared, in every so many rounds."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from grawa.comm.participants import Participants
from grawa.comm.protocol import Transport
from grawa.math.leaves import Leaves
from grawa.math.moments import corrections, own_scales
from grawa.rounds.fragment import Fragment
from grawa.rounds.plan import RoundPlan
from grawa.workers.optimizer_state import Entry, Held, OptimizerStates


class OptimizerStateRounds:
    """Averages or clears the state of the optimizers together with the parameters it belongs to.

    Means have equal weights, whatever those of the parameters are, as those of buffers have: see
    `docs/decisions.md`.

    Args:
        states: of the hosted workers' optimizers.
        comm: connects all workers.
        plan: says what is done, and how often.
    """

    def __init__(self, states: OptimizerStates, comm: Transport, plan: RoundPlan) -> None:
        self._states, self._comm, self._plan = states, comm, plan

    def check(self) -> None:
        """Refuses a state that is to be averaged, and can't be."""
        if self._plan.optimizer_state == "average":
            self._states.check()

    def run(self, fragment: Fragment, active: Tensor) -> Callable[[], None] | None:
        """What is done to the state in a round of a fragment; collective.

        Args:
            fragment: whose round this is, before it is committed.
            active: the workers that take part, (N,).

        Returns:
            A function that changes the hosted workers' state when the round is applied to them;
            `None` if it stays as it is.
        """
        kind, names = self._plan.optimizer_state, list(fragment.params)
        if kind == "local" or (fragment.rounds + 1) % self._plan.optimizer_state_every:
            return None
        if kind == "reset":
            return partial(self._states.clear, names)
        return self._averaged(names, active)

    def _averaged(self, names: Sequence[str], active: Tensor) -> Callable[[], None] | None:
        """Means with equal weights of the workers that have an entry, and it is finite."""
        slots = self._states.slots(names)
        held = Held.of(self._comm.gather(self._states.report(slots))())
        counts = (held.forms > 0) & active.view(-1, 1, 1)  # (N, S, M)
        found = counts.any(dim=0).nonzero().tolist()
        if not found:
            return None
        entries = [held.entry(slots, s, m) for s, m in found]
        weights = torch.stack([counts[:, s, m] for s, m in found], dim=1).double()  # (N, E)
        rows = self._states.rows(entries)
        mean = Participants(self._comm, active).weighted_mean(rows, weights)
        betas = torch.tensor(self._states.betas(entries), dtype=torch.float64, device="cpu")
        steps = held.steps[:, [s for s, _ in found]]
        scales = self._comm.hosted(own_scales(corrections(betas, steps), weights))
        return partial(self._put, entries, mean, scales)

    def _put(self, entries: Sequence[Entry], mean: Leaves, scales: Tensor) -> None:
        for k, own in enumerate(scales.tolist()):
            self._states.put(k, entries, list(mean.values()), own)
