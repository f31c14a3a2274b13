"""How workers are averaged: the interface of a method."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from grawa.comm.protocol import Communicator, Team
from grawa.math.leaves import Leaves, Stack
from grawa.scores.protocol import Score

__all__ = ["Communicator", "Leaves", "Score", "Stack", "State", "Strategy", "Team", "first_state"]

State = dict[str, Leaves]
"""What a strategy keeps between rounds, such as "center"; the same on every process."""

OF_WORKERS = "workers"
"""The entry of the state that `Strategy.init_workers` makes."""


@dataclass(frozen=True, kw_only=True)
class Strategy(ABC):
    """How workers are averaged. It is immutable; what changes from round to round is its state."""

    moves_one_worker: ClassVar[bool] = False
    """Whether rounds and `drift` change parameters even if there is only one worker."""

    averages: ClassVar[bool] = True
    """Whether rounds take means of workers, which `Averager(weigh_by=)` can weight."""

    score: Score | None = field(default=None, init=False, repr=False)
    """What the workers report before a round; `None` for nothing. A method with a score redefines
    this field."""

    def groups(self, names: Sequence[str]) -> tuple[int, ...]:
        """The group of each parameter; parameters of a group share one score and one weight."""
        return (0,) * len(names)

    def team_sizes(self) -> tuple[int, ...]:
        """The sizes with which `sync` calls `comm.split`; the teams are connected at the start."""
        return ()

    def shares_gradients(self, step: int) -> bool:
        """Whether local step `step` (from 0) uses the mean of all workers' gradients."""
        return False

    def init(self, params: Stack) -> State:
        """The state before the first round, when all workers are equal; sends no messages."""
        return {}

    def init_workers(self, names: Sequence[str], num_workers: int) -> Leaves | None:
        """What is kept of each worker, beside `init`: the entry "workers" of the state.

        Args:
            names: of the parameters.
            num_workers: N.

        Returns:
            Leaves with a row of zeros for each worker, (N, ...), on the CPU; `None` for nothing.
        """
        return None

    @abstractmethod
    def sync(
        self, params: Stack, scores: Tensor | None, state: State, comm: Communicator, round: int
    ) -> Tensor | None:
        """One round: moves the hosted workers' parameters, and the state, in place.

        Args:
            params: name -> (K, *shape).
            scores: (N, G), positive or zero, float64, on the CPU; without meaning for workers that
                are left out. `None` if the strategy has no score.
            state: as the last round left it; the same entries in each round.
            comm: connects all workers.
            round: number of earlier rounds of this part of the model.

        Returns:
            The weights, (N, G), columns sum to 1, zero for a worker that is left out; `None` if
            the workers count equally, or have no weights, as in a median.
        """

    @property
    def drifts(self) -> bool:
        """Whether `drift` moves anything: if it is overridden, and not with a `prox` of zero."""
        return type(self).drift is not Strategy.drift and getattr(self, "prox", 1.0) > 0.0

    def pull_of_round(self, num_workers: int) -> float:
        """How far each worker moves to the result of a round.

        What `grawa.TopK` did not send of a worker's parameters is still in them afterwards, except
        for this share, which is kept and sent later.

        Args:
            num_workers: N.

        Returns:
            In [0, 1]: its field `pull`; without one, 1, since workers restart from the result.
        """
        return float(getattr(self, "pull", 1.0))

    def drift(self, params: Stack, state: State, share: float) -> None:  # ruff: ignore[empty-method-without-abstract-decorator] - a hook
        """Moves the parameters in place after a local step, `share` of the steps of a round."""

    @abstractmethod
    def consensus(self, params: Stack, state: State, comm: Communicator) -> Leaves:
        """The one model to evaluate, save and serve."""


def first_state(strategy: Strategy, params: Stack, num_workers: int) -> State:
    """All that a strategy keeps, before the first round.

    Args:
        strategy: the strategy.
        params: name -> (K, *shape), equal on all workers.
        num_workers: N.

    Returns:
        The state for `sync`.
    """
    state = strategy.init(params)
    of_workers = strategy.init_workers(list(params), num_workers)
    return state if of_workers is None else {**state, OF_WORKERS: of_workers}
