"""How a center follows the workers: it is their weighted mean, or it steps toward it."""

from dataclasses import dataclass

from torch import Tensor

from grawa.comm.protocol import Communicator
from grawa.errors import UserError
from grawa.math.leaves import Leaves, Stack
from grawa.math.outer import nesterov_
from grawa.math.weights import uniform
from grawa.strategies.checks import check_not_negative
from grawa.strategies.protocol import State


@dataclass(frozen=True, kw_only=True)
class OuterNesterov:
    """An outer optimizer: the center steps toward the mean with Nesterov momentum.

    Args:
        lr: 1 goes all the way to the mean, before momentum.
        momentum: how much of the last outer steps is kept, in [0, 1).

    Source: Douillard et al. (2023), "DiLoCo: Distributed Low-Communication Training of Language
    Models", section 3, whose best values are the defaults.
    """

    lr: float = 0.7
    momentum: float = 0.9

    def __post_init__(self) -> None:
        check_not_negative("outer lr", self.lr)
        if not 0.0 <= self.momentum < 1.0:
            raise UserError(f"outer momentum must lie in [0, 1), got {self.momentum}")


def first_center(params: Stack, comm: Communicator, outer: OuterNesterov | None) -> State:
    """The state before the first round, when all workers have the same parameters.

    Returns:
        "center", and with an outer optimizer "mean" (its scratch) and "momentum".
    """
    center = comm.weighted_mean(params, uniform(comm.num_workers))
    if outer is None:
        return {"center": center}
    return {"center": center, "mean": center.zeros_like(), "momentum": center.zeros_like()}


def next_center(
    params: Stack, weights: Tensor, state: State, comm: Communicator, outer: OuterNesterov | None
) -> Leaves:
    """Moves the state's center by one round, in place.

    Args:
        params: name -> (K, *shape).
        weights: (N, L) or (N, 1).
        state: as `first_center` made it.
        comm: the other workers.
        outer: as for `first_center`.

    Returns:
        The center.
    """
    if outer is None:
        return comm.weighted_mean(params, weights, state["center"])
    mean = comm.weighted_mean(params, weights, state["mean"])
    nesterov_(state["center"], state["momentum"], mean, lr=outer.lr, momentum_decay=outer.momentum)
    return state["center"]


def mean_of_workers(params: Stack, comm: Communicator) -> Leaves:
    """The plain mean of all workers as they are now."""
    return comm.weighted_mean(params, uniform(comm.num_workers))
