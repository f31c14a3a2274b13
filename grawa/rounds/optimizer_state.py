"""Rounds of the optimizers' state: it is averaged, or cleared, in every so many rounds."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from grawa.comm.participants import Participants
from grawa.comm.protocol import Transport
from grawa.math.leaves import Leaves
from grawa.math.moments import corrections, own_scales
from grawa.math.weights import uniform
from grawa.rounds.fragment import Fragment
from grawa.rounds.plan import RoundPlan
from grawa.workers.optimizer_state import Entry, Held, OptimizerStates


class OptimizerStateRounds:
    """Averages or clears the state of the optimizers together with the parameters it belongs to.

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

    def run(
        self, fragment: Fragment, active: Tensor, weights: Tensor | None
    ) -> Callable[[], None] | None:
        """What is done to the state in a round of a fragment; collective.

        Args:
            fragment: whose round this is, before it is committed.
            active: the workers that take part, (N,).
            weights: those of the round, (N, G); `None` if the workers count equally.

        Returns:
            A function that changes the hosted workers' state when the round is applied to them;
            `None` if it stays as it is.
        """
        kind, names = self._plan.optimizer_state, list(fragment.params)
        if kind == "local" or (fragment.rounds + 1) % self._plan.optimizer_state_every:
            return None
        if kind == "reset":
            return partial(self._states.clear, names)
        return self._averaged(names, active, weights)

    def _averaged(
        self, names: Sequence[str], active: Tensor, weights: Tensor | None
    ) -> Callable[[], None] | None:
        slots = self._states.slots(names)
        held = Held.of(self._comm.gather(self._states.report(slots))())
        shares = uniform(self._comm.num_workers) if weights is None else weights
        groups = dict(zip(names, self._plan.strategy.groups(names), strict=True))
        columns = [0 if weights is None else groups[slot.name] for slot in slots]
        shares = (shares.double() * active.unsqueeze(1))[:, columns]  # (N, S)
        all_shares = torch.where(held.forms > 0, shares.unsqueeze(2), 0.0)  # (N, S, M)
        found = (all_shares.sum(dim=0) > 0).nonzero().tolist()
        if not found:
            return None
        entries = [held.entry(slots, s, m) for s, m in found]
        of_entries = torch.stack([all_shares[:, s, m] for s, m in found], dim=1)  # (N, E)
        mean = Participants(self._comm, active).weighted_mean(
            self._states.rows(entries), of_entries
        )
        betas = torch.tensor(self._states.betas(entries), dtype=torch.float64)
        steps = held.steps[:, [s for s, _ in found]]
        scales = self._comm.hosted(own_scales(corrections(betas, steps), of_entries))
        return partial(self._put, entries, mean, scales)

    def _put(self, entries: Sequence[Entry], mean: Leaves, scales: Tensor) -> None:
        for k, own in enumerate(scales.tolist()):
            self._states.put(k, entries, list(mean.values()), own)
