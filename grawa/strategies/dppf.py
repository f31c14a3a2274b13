"""DPPF: workers are pulled to their mean and pushed away from it."""

from dataclasses import dataclass

from torch import Tensor

from grawa.math.leaves import Leaves, Stack
from grawa.math.motion import pull_and_push_
from grawa.math.weights import uniform
from grawa.strategies.center import first_center, mean_of_workers, next_center
from grawa.strategies.checks import check_fraction, check_not_negative
from grawa.strategies.protocol import Communicator, State, Strategy


@dataclass(frozen=True, kw_only=True)
class DPPF(Strategy):
    """Pull to the mean, then push away from it by a constant length.

        x_i <- x_i + pull (c - x_i) + push (x_i - c) / ||x_i - c||,    c = mean(x)

    The norm is that of all parameters (of a fragment's, with fragments). Where nothing else moves
    the workers, they come to rest at a distance of push/pull from the mean: the width of the valley
    that they are made to span.

    Args:
        pull: alpha in the paper, in [0, 1].
        push: lambda in the paper, a length in parameter space.
        push_warmup: over this many first rounds the push rises evenly from zero.

    Source: Dimlioglu and Choromanska (2025), "Communication-Efficient Distributed Training for
    Collaborative Flat Optima Recovery in Deep Learning" (arXiv 2507.20424).
    Deviation: of the paper, its abstract and the width push/pull were checked; the formula is as it
    is cited elsewhere. A linear warm-up stands for the paper's schedules of lambda, which we have
    not seen, and so have none of its values; our defaults are in `docs/decisions.md`.
    """

    pull: float = 0.1
    push: float = 0.03
    push_warmup: int = 0

    def __post_init__(self) -> None:
        check_fraction("pull", self.pull)
        check_not_negative("push", self.push)
        check_not_negative("push_warmup", self.push_warmup)

    def init(self, params: Stack) -> State:
        """The common initial parameters are the first mean."""
        return first_center(params)

    def sync(
        self, params: Stack, scores: Tensor | None, state: State, comm: Communicator, round: int
    ) -> Tensor | None:
        """See `Strategy.sync`."""
        center = next_center(params, uniform(comm.num_workers), state, comm)
        risen = min(1.0, (round + 1) / (self.push_warmup + 1))
        pull_and_push_(params, center, self.pull, self.push * risen)
        return None

    def consensus(self, params: Stack, state: State, comm: Communicator) -> Leaves:
        """The mean of the workers as they are now."""
        return mean_of_workers(params, comm)
