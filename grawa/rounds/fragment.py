"""The rounds of a fragment: who is well, who is pulled, and what the strategy keeps."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from grawa.comm.compressed import Compressed
from grawa.comm.participants import Participants
from grawa.comm.protocol import Communicator
from grawa.errors import UserError
from grawa.math.leaves import Leaves, Rows
from grawa.rounds.guard import Guard, Health, Verdict, trusting
from grawa.rounds.roll_call import Roll
from grawa.strategies.protocol import Strategy
from grawa.workers.buffers import average_buffers
from grawa.workers.target import Target


class Outcome(NamedTuple):
    """What a round came to."""

    weights: Tensor | None
    """(N, G), or `None` where the workers count equally."""
    verdict: Verdict
    consensus_distance: float | None


def judge(guard: Guard | None, health: Health) -> Verdict:
    """Who takes part; without a guard everyone, whatever their state."""
    return trusting(health) if guard is None else guard.judge(health)


class Rounds:
    """Runs the rounds of a strategy over some leaves; state lives here between rounds.

    Args:
        params: the hosted workers' leaves, which are the same for all workers now.
        groups: the group of each leaf in the whole model.
        strategy: how workers are pulled together.
        comm: all workers.
        averaging: all workers, for the strategy's means, if these travel in another way.
        guard: who takes part.
        measure_distance: whether consensus distances are measured; one more pass over the
            parameters and one more small message a round.
        in_background: whether rounds run while `drift` is called.
    """

    def __init__(
        self,
        params: Rows,
        groups: Sequence[int],
        strategy: Strategy,
        comm: Communicator,
        averaging: Communicator,
        guard: Guard | None,
        *,
        measure_distance: bool,
        in_background: bool,
    ) -> None:
        self._columns = columns_of(groups, strategy.groups(list(params)))
        self._strategy = strategy
        self._comm = comm
        self._averaging = averaging
        self._guard = guard
        self._measure_distance = measure_distance
        self._buffer_mean: Leaves | None = None
        for size in strategy.team_sizes():
            averaging.split(size)
        if isinstance(averaging, Compressed):
            averaging.start_from(params)
        self._state = {
            key: leaves.moved(comm.num_processes, averaging.allocate)
            for key, leaves in strategy.init(params).items()
        }
        self._round = 0
        drifts = type(strategy).drift is not Strategy.drift
        self._seen = {k: v.clone() for k, v in self._state.items()} if drifts else {}
        self._in_background = in_background
        if not in_background:
            self._seen = self._state

    def drift(self, params: Rows, share: float) -> None:
        """After a local step that makes up `share` of a cycle."""
        self._strategy.drift(params, self._seen, share)

    def run(self, roll: Roll, target: Target) -> Outcome:
        """One round with those who answered the roll call."""
        verdict = judge(self._guard, roll.health)
        others = Participants(self._averaging, verdict.active, measure=self._measure_distance)
        scores = None if verdict.scores is None else verdict.scores[:, self._columns]
        weights = self._strategy.sync(target.params, scores, self._state, others, self._round)
        self._round += 1
        plain = Participants(self._comm, verdict.active)
        self._buffer_mean = average_buffers(target, plain, self._buffer_mean)
        return Outcome(weights, verdict, self._distance(others, verdict))

    def settle(self) -> None:
        """The round is over for the workers too: they drift by its outcome from now on."""
        if not self._in_background:
            self._seen = self._state
            return
        for key, leaves in self._seen.items():
            torch._foreach_copy_(leaves.flats, self._state[key].flats)

    def _distance(self, others: Participants, verdict: Verdict) -> float | None:
        if others.distances is None:
            return None
        distances = self._comm.gather(others.distances.unsqueeze(1))()[verdict.active]
        return float(distances.square().mean().sqrt())

    def consensus(self, params: Rows, active: Tensor) -> Leaves:
        """The strategy's consensus of the workers that are active, (N,)."""
        return self._strategy.consensus(params, self._state, Participants(self._comm, active))

    def state_dict(self) -> dict[str, Any]:
        """What must be saved so that training resumes bit for bit."""
        state = {key: dict(leaves) for key, leaves in self._state.items()}
        return {"round": self._round, "state": state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave, into the same strategy.

        Raises:
            UserError: if it was saved by another strategy.
        """
        saved = state["state"]
        if saved.keys() != self._state.keys():
            raise UserError(
                f"the saved state has {sorted(saved)}, but this strategy keeps "
                f"{sorted(self._state)}: load it into the strategy it was saved from"
            )
        for key, leaves in self._state.items():
            for name, leaf in leaves.items():
                leaf.copy_(saved[key][name])
        self._round = state["round"]
        self.settle()


def columns_of(groups: Sequence[int], own_groups: Sequence[int]) -> list[int]:
    """Which of the model's groups is which of a fragment's.

    Args:
        groups: the group in the model of each of the fragment's leaves.
        own_groups: the group in the fragment of each.

    Returns:
        For each group of the fragment, the model's.

    Raises:
        UserError: if a group of the fragment belongs to several of the model.

    >>> columns_of([2, 2, 3], [0, 0, 1])
    [2, 3]
    """
    columns = dict(zip(own_groups, groups, strict=True))
    if any(columns[own] != group for own, group in zip(own_groups, groups, strict=True)):
        raise UserError(
            "group_by joins parameters of a fragment that it keeps apart in the whole model; "
            "take fragments=1, or group by name"
        )
    return [columns[own] for own in range(len(columns))]
