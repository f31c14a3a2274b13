"""How workers are averaged: the interface of a method."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from torch import Tensor

from grawa.comm.protocol import Team
from grawa.math.leaves import Leaves, Stack
from grawa.math.norms import Norms
from grawa.scores.protocol import Score

__all__ = ["Communicator", "Leaves", "Score", "Stack", "State", "Strategy", "Team"]

State = dict[str, Leaves]
"""What a strategy carries from round to round, the same on every process: "center" and the like."""


class Communicator(Protocol):
    """All that a strategy sees of the other workers."""

    @property
    def num_workers(self) -> int:
        """N, with those that are left out of this round."""
        ...

    @property
    def active(self) -> Tensor:
        """(N,), true for the workers that take part in this round."""
        ...

    @property
    def norms(self) -> Norms:
        """Takes the L2 norms of whole hosted workers, over all shards where they are sharded."""
        ...

    def weighted_mean(self, rows: Stack, weights: Tensor, out: Leaves | None = None) -> Leaves:
        """Sum of weight times row over the workers that take part, divided by the weights' sum.

        Args:
            rows: name -> (K, *shape).
            weights: (N, L) for L leaves or (N, 1) for all of them, float64, on the CPU; not
                negative. A worker that is left out has weight zero, whatever is given here.
            out: where to put the mean, overwritten; may not share memory with `rows`.

        Returns:
            `out`, or new leaves.
        """
        ...

    def split(self, size: int) -> Sequence[Team]:
        """The teams of `size` consecutive workers in which this process hosts workers."""
        ...


@dataclass(frozen=True, kw_only=True)
class Strategy(ABC):
    """How workers are pulled together. A value: what changes from round to round is the state."""

    moves_one_worker: ClassVar[bool] = False
    """Whether rounds and `drift` do something where there is only one worker."""

    score: Score | None = field(default=None, init=False, repr=False)
    """What the workers report before a round, if anything; a method that has one makes it a field
    of its own."""

    def groups(self, names: Sequence[str]) -> tuple[int, ...]:
        """The group of each leaf; leaves of a group share one score and one weight."""
        return (0,) * len(names)

    def team_sizes(self) -> tuple[int, ...]:
        """The sizes for which `sync` calls `comm.split`; the teams are made at the start."""
        return ()

    def shares_gradients(self, step: int) -> bool:
        """Whether local step `step` (from 0) uses the mean of all workers' gradients."""
        return False

    def init(self, params: Stack) -> State:
        """The state before the first round; all workers have the same parameters. No messages."""
        return {}

    @abstractmethod
    def sync(
        self, params: Stack, scores: Tensor | None, state: State, comm: Communicator, round: int
    ) -> Tensor | None:
        """One round: moves the hosted workers' parameters, and the state, in place.

        Args:
            params: name -> (K, *shape).
            scores: (N, G), positive or zero, float64, on the CPU; those of workers that are left
                out mean nothing. `None` if the strategy has no score.
            state: as the last round left it; the same entries in each round.
            comm: the other workers.
            round: how many rounds this part of the model has had before, from 0.

        Returns:
            The weights, (N, G), columns sum to 1, zero for a worker that is left out; `None` where
            the workers count equally.
        """

    @property
    def drifts(self) -> bool:
        """Whether `drift` moves anything: if it is overridden, and not with a `prox` of zero."""
        return type(self).drift is not Strategy.drift and getattr(self, "prox", 1.0) > 0.0

    def drift(self, params: Stack, state: State, share: float) -> None:  # ruff: ignore[empty-method-without-abstract-decorator] - a hook
        """Moves the parameters in place after a local step that makes up `share` of a round."""

    @abstractmethod
    def consensus(self, params: Stack, state: State, comm: Communicator) -> Leaves:
        """The one model to evaluate, save and serve."""
