"""SlowMo: workers restart from a center that moves with slow momentum."""

from dataclasses import dataclass

from torch import Tensor

from grawa.errors import UserError
from grawa.math.leaves import Leaves, Stack
from grawa.math.motion import put_
from grawa.math.outer import heavy_ball_
from grawa.math.weights import uniform
from grawa.strategies.center import moving_center, step_center
from grawa.strategies.checks import check_not_negative
from grawa.strategies.protocol import Communicator, State, Strategy


@dataclass(frozen=True, kw_only=True)
class SlowMo(Strategy):
    """Heavy-ball momentum on the displacement of the workers' mean since the last round.

        u   <- momentum u + (c - mean(x))
        c   <- c - slow_lr u
        x_i <- c

    Args:
        slow_lr: alpha in the paper; 1 steps all the way to the mean, before momentum is added.
        momentum: beta in the paper, in [0, 1).

    Source: Wang et al. (2020), "SlowMo: Improving Communication-Efficient Distributed SGD with Slow
    Momentum", algorithm 1.
    Deviation: the paper divides c - mean(x) by the workers' learning rate and multiplies the step
    by it again. At a constant learning rate that cancels, and our u is the paper's times that rate.
    If the rate changes between rounds, from a to b, the paper's effective momentum is
    momentum * b/a, and ours is unchanged. Local optimizers' buffers are kept, one of the paper's
    three options ("maintain").
    """

    slow_lr: float = 1.0
    momentum: float = 0.7

    def __post_init__(self) -> None:
        check_not_negative("slow_lr", self.slow_lr)
        if not 0.0 <= self.momentum < 1.0:
            raise UserError(f"momentum must lie in [0, 1), got {self.momentum}")

    def init(self, params: Stack) -> State:
        """The common initial parameters are the first center; the momentum is zero."""
        state = moving_center(Leaves.copy_of(params))
        return {**state, "momentum": state.get("exact", state["center"]).zeros_like()}

    def sync(
        self, params: Stack, scores: Tensor | None, state: State, comm: Communicator, round: int
    ) -> Tensor | None:
        """See `Strategy.sync`."""
        mean = comm.weighted_mean(params, uniform(comm.num_workers), state["mean"])
        center = step_center(
            state,
            lambda center: heavy_ball_(
                center,
                state["momentum"],
                mean,
                lr=self.slow_lr,
                momentum_decay=self.momentum,
                began=state["center"],
            ),
        )
        put_(params, center)
        return None

    def consensus(self, params: Stack, state: State, comm: Communicator) -> Leaves:
        """The center."""
        return state["center"]
