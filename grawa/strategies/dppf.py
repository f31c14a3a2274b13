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

    The norm is over all parameters (with fragments, over the fragment's). If nothing else moves
    the workers, they end up at a distance of push/pull from the mean, which sets how wide a valley
    they span.

    Args:
        pull: alpha in the paper, in [0, 1].
        push: lambda in the paper, a length in parameter space.
        push_warmup: over this many first rounds the push rises linearly from zero.

    Source: Dimlioglu and Choromanska (2025), "Communication-Efficient Distributed Training for
    Collaborative Flat Optima Recovery in Deep Learning" (arXiv 2507.20424).
    Deviation: we have checked the paper's abstract and the width push/pull; the formula is as cited
    elsewhere. We have not seen the paper's schedules of lambda, and use a linear warm-up in their
    place; `docs/decisions.md` says how our defaults were chosen.
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
        pull_and_push_(params, center, self.pull, self.push * risen, comm.norms)
        return None

    def consensus(self, params: Stack, state: State, comm: Communicator) -> Leaves:
        """The mean of the workers' current parameters."""
        return mean_of_workers(params, comm)
