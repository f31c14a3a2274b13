"""How workers are averaged: the interface of a method."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from grawa.comm.protocol import Communicator
from grawa.math.leaves import Leaves, Stack
from grawa.scores.protocol import Score

State = dict[str, Leaves]
"""What a strategy carries from round to round, the same on every process: "center" and the like."""


class Round(NamedTuple):
    """What a round did."""

    state: State
    weights: Tensor | None
    """(N, G), columns sum to 1; `None` where the workers count equally."""


@dataclass(frozen=True, kw_only=True)
class Strategy(ABC):
    """How workers are pulled together. A value: what changes is passed in and returned."""

    @property
    def score(self) -> Score | None:
        """What the workers must report before a round, if anything."""
        return None

    def groups(self, names: Sequence[str]) -> tuple[int, ...]:
        """The group of each leaf; leaves of a group share one score and one weight."""
        return (0,) * len(names)

    def shares_gradients(self, step: int) -> bool:
        """Whether local step `step` (from 0) uses the mean of all workers' gradients."""
        return False

    def init(self, params: Stack, comm: Communicator) -> State:
        """The state before the first round; all workers have the same parameters."""
        return {}

    @abstractmethod
    def sync(self, params: Stack, scores: Tensor | None, state: State, comm: Communicator) -> Round:
        """One round: moves the hosted workers' parameters in place.

        Args:
            params: name -> (K, *shape).
            scores: (N, G), positive or zero, float64, on the CPU; infinite for a worker that is
                left out; `None` if the strategy has no score.
            state: what the last round returned; it may be updated in place.
            comm: the other workers. A worker that is left out has weight zero in its means,
                whatever weight it is given.
        """

    def drift(self, params: Stack, state: State, share: float) -> None:  # ruff: ignore[empty-method-without-abstract-decorator] - a hook
        """Moves the parameters in place after a local step that makes up `share` of a round."""

    @abstractmethod
    def consensus(self, params: Stack, state: State, comm: Communicator) -> Leaves:
        """The one model to evaluate, save and serve."""
