"""EASGD: elastic averaging, in which workers and a center pull each other."""

from dataclasses import dataclass

from torch import Tensor

from grawa.math.leaves import Leaves, Stack
from grawa.math.motion import blend_, pull_
from grawa.math.weights import uniform
from grawa.strategies.center import moving_center, step_center
from grawa.strategies.checks import check_fraction
from grawa.strategies.protocol import Communicator, State
from grawa.strategies.prox import Proximal


@dataclass(frozen=True, kw_only=True)
class EASGD(Proximal):
    """Elastic averaging, synchronous.

        x_i    <- (1 - elasticity/N) x_i + (elasticity/N) center
        center <- (1 - elasticity) center + elasticity mean(x)

    Both right-hand sides use the parameters and the center from before the round.

    Args:
        elasticity: beta in the paper, in [0, 1].
        prox: as in GRAWA, toward the center.
        prox_probability, prox_seed: as in GRAWA.

    Source: Zhang, Choromanska and LeCun (2015), "Deep Learning with Elastic Averaging SGD",
    equations 5 and 6; beta = 0.9 and the pull beta/N are from its section 5.
    """

    elasticity: float = 0.9

    def __post_init__(self) -> None:
        Proximal.__post_init__(self)
        check_fraction("elasticity", self.elasticity)

    def init(self, params: Stack) -> State:
        """The common initial parameters are the first center."""
        return moving_center(Leaves.copy_of(params))

    def sync(
        self, params: Stack, scores: Tensor | None, state: State, comm: Communicator, round: int
    ) -> Tensor | None:
        """See `Strategy.sync`."""
        mean = comm.weighted_mean(params, uniform(comm.num_workers), state["mean"])
        pull_(params, state["center"], self.pull_of_round(comm.num_workers))
        step_center(state, lambda center: blend_(center, mean, self.elasticity))
        return None

    def pull_of_round(self, num_workers: int) -> float:
        """beta/N."""
        return self.elasticity / num_workers

    def consensus(self, params: Stack, state: State, comm: Communicator) -> Leaves:
        """The center."""
        return state["center"]
