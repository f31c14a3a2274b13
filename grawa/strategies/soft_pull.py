"""A soft pull to a weighted average, the base of methods that differ in their weights only."""

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from grawa.math.leaves import Leaves, Stack
from grawa.math.motion import pull_
from grawa.strategies.center import OuterNesterov, first_center, next_center
from grawa.strategies.checks import check_fraction
from grawa.strategies.protocol import Communicator, State, Strategy


@dataclass(frozen=True, kw_only=True)
class SoftPull(Strategy):
    """Pull to a weighted average of the workers; subclasses define the weights.

        c    = sum_i w_i x_i
        x_i <- (1 - pull) x_i + pull c                            at a round
        x_i <- (1 - prox/sync_every) x_i + (prox/sync_every) c    after each local step

    Args:
        pull: how far workers move to the center at a round.
        prox: how far they move to it, in total, over the local steps of a round.
        outer: if given, the center is not the weighted average itself but steps toward it with
            this optimizer, as DiLoCo's does.
    """

    pull: float = 0.5
    prox: float = 0.01
    outer: OuterNesterov | None = None

    def __post_init__(self) -> None:
        check_fraction("pull", self.pull)
        check_fraction("prox", self.prox)

    @abstractmethod
    def weights(self, scores: Tensor | None, active: Tensor, round: int) -> Tensor:
        """The weights of a round.

        Args:
            scores: (N, G), from the strategy's score; `None` if it has none.
            active: (N,), true for the workers that take part.
            round: number of earlier rounds.

        Returns:
            (N, G), columns sum to 1; zero for a worker that is left out.
        """

    def init(self, params: Stack) -> State:
        """The common initial parameters are the first center."""
        return first_center(params, self.outer)

    def sync(
        self, params: Stack, scores: Tensor | None, state: State, comm: Communicator, round: int
    ) -> Tensor | None:
        """See `Strategy.sync`."""
        weights = self.weights(scores, comm.active, round)
        per_leaf = weights[:, list(self.groups(list(params)))]
        pull_(params, next_center(params, per_leaf, state, comm, self.outer), self.pull)
        return weights

    def drift(self, params: Stack, state: State, share: float) -> None:
        """The proximal pull to the last center."""
        pull_(params, state["center"], self.prox * share)

    def consensus(self, params: Stack, state: State, comm: Communicator) -> Leaves:
        """The center."""
        return state["center"]
