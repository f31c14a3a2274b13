"""A soft pull to a weighted average, the base of methods that differ in their weights only."""

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from grawa.math.leaves import Leaves, Stack
from grawa.math.motion import pull_
from grawa.strategies.center import Outer, first_center, next_center, outer_of
from grawa.strategies.checks import check_fraction
from grawa.strategies.protocol import Communicator, State
from grawa.strategies.prox import Proximal


@dataclass(frozen=True, kw_only=True)
class SoftPull(Proximal):
    """Pull to a weighted average of the workers; subclasses define the weights.

        c    = sum_i w_i x_i
        x_i <- (1 - pull) x_i + pull c                            at a round
        x_i <- (1 - prox/sync_every) x_i + (prox/sync_every) c    after each local step

    Args:
        pull: how far workers move to the center at a round.
        prox: how far they move to it, in total, over the local steps of a round.
        prox_probability: with which a local step is followed by a pull, see `Proximal`.
        prox_seed: of these draws.
        outer: if given, the center is not the weighted average itself but steps toward it with
            this optimizer, as DiLoCo's does.
    """

    pull: float = 0.5
    prox: float = 0.01
    outer: Outer | None = None

    def __post_init__(self) -> None:
        Proximal.__post_init__(self)
        check_fraction("pull", self.pull)
        if self.outer is not None:
            object.__setattr__(self, "outer", outer_of(self.outer))

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
        center = next_center(params, per_leaf, state, comm, self.outer, round)
        pull_(params, center, self.pull)
        return weights

    def consensus(self, params: Stack, state: State, comm: Communicator) -> Leaves:
        """The center."""
        return state["center"]
