"""Krum, for `grawa train digits --strategy examples/krum.py:Krum` and the like."""

from dataclasses import dataclass

from torch import Tensor

from grawa.math.motion import put_
from grawa.math.weights import one_hot_smallest
from grawa.strategies.center import first_center
from grawa.strategies.protocol import Communicator, Leaves, Stack, State, Strategy


@dataclass(frozen=True, kw_only=True)
class Krum(Strategy):
    """Replace every worker by the one that has the nearest neighbours.

    Of M workers that take part, the one whose squared distances to its M - faulty - 2 nearest
    others have the smallest sum.

    Source: Blanchard et al. (2017), "Machine Learning with Adversaries: Byzantine Tolerant
    Gradient Descent", section 4.
    """

    faulty: int = 1

    def init(self, params: Stack) -> State:
        """The common initial parameters are the first center."""
        return first_center(params)

    def sync(
        self, params: Stack, scores: Tensor | None, state: State, comm: Communicator, round: int
    ) -> Tensor:
        """Moves the hosted workers."""
        squares = comm.pairwise_distances(params).square().sort(dim=1).values  # (N, N)
        neighbours = max(1, int(comm.active.sum()) - self.faulty - 2)
        sums = squares[:, 1 : 1 + neighbours].sum(dim=1, keepdim=True)  # first is the own distance
        weights = one_hot_smallest(sums, comm.active)  # (N, 1)
        put_(params, comm.weighted_mean(params, weights, state["center"]))
        return weights

    def consensus(self, params: Stack, state: State, comm: Communicator) -> Leaves:
        """The worker that was chosen last."""
        return state["center"]
