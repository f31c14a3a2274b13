"""How a center is updated: it is the workers' weighted mean, or steps toward the mean."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grawa.errors import UserError
from grawa.math.leaves import Leaves, Stack
from grawa.math.motion import put_, stretch_
from grawa.math.outer import nesterov_
from grawa.math.weights import uniform
from grawa.scores.displacement import joint_norms
from grawa.strategies.checks import check_not_negative
from grawa.strategies.protocol import Communicator, State


@dataclass(frozen=True, kw_only=True)
class OuterNesterov:
    """An outer optimizer: the center steps toward the mean with Nesterov momentum.

    Args:
        lr: 1 steps all the way to the mean, before momentum is added.
        momentum: how much of the previous outer steps is kept, in [0, 1).

    Source: Douillard et al. (2023), "DiLoCo: Distributed Low-Communication Training of Language
    Models", section 3, whose best values are the defaults.
    """

    lr: float = 0.7
    momentum: float = 0.9

    def __post_init__(self) -> None:
        check_not_negative("outer lr", self.lr)
        if not 0.0 <= self.momentum < 1.0:
            raise UserError(f"outer momentum must lie in [0, 1), got {self.momentum}")


def first_center(params: Stack, outer: OuterNesterov | None = None) -> State:
    """The state before the first round, when all workers have the same parameters.

    Returns:
        "center", and with an outer optimizer the other entries of `moving_center`.
    """
    center = Leaves.copy_of(params)
    return {"center": center} if outer is None else moving_center(center)


def moving_center(center: Leaves, *, momentum: bool = True) -> State:
    """The state of a center that moves by steps, in place of being the mean itself.

    An outer step can be smaller than the resolution of 16 bits. So with 16-bit parameters the steps
    are applied to "exact", the center in float32, and "center" is a 16-bit copy of it.

    Args:
        center: the common initial parameters.
        momentum: whether its steps have momentum.

    Returns:
        "center", "mean" (scratch memory), "momentum" and, if some parameters have 16 bits, "exact".
    """
    wide = center.widened()
    state = {"center": center, "mean": center.zeros_like()}
    if momentum:
        state["momentum"] = wide.zeros_like()
    if any(a.dtype != b.dtype for a, b in zip(center.flats, wide.flats, strict=True)):
        state["exact"] = wide
    return state


def step_center(state: State, step: Callable[[Leaves], None]) -> Leaves:
    """Moves a center in place.

    Args:
        state: from `moving_center`.
        step: moves the center in place; it is given the float32 one if there is one.

    Returns:
        The center, in the parameters' own dtype.
    """
    center, exact = state["center"], state.get("exact")
    step(center if exact is None else exact)
    if exact is not None:
        torch._foreach_copy_(center.flats, exact.flats)
    return center


def next_center(
    params: Stack,
    weights: Tensor,
    state: State,
    comm: Communicator,
    outer: OuterNesterov | None = None,
    change: Callable[[Leaves], None] = lambda mean: None,
) -> Leaves:
    """Moves the state's center by one round, in place.

    Args:
        params: name -> (K, *shape).
        weights: (N, L) or (N, 1).
        state: from `first_center`.
        comm: connects all workers.
        outer: as for `first_center`.
        change: with an outer optimizer, moves the mean in place before the center steps toward it.

    Returns:
        The center.
    """
    if outer is None:
        return comm.weighted_mean(params, weights, state["center"])
    mean = comm.weighted_mean(params, weights, state["mean"])
    change(mean)
    return step_center(
        state,
        lambda center: nesterov_(
            center,
            state["momentum"],
            mean,
            lr=outer.lr,
            momentum_decay=outer.momentum,
            began=state["center"],
        ),
    )


def restart_from_center(
    params: Stack, state: State, comm: Communicator, outer: OuterNesterov
) -> None:
    """Moves the center by an outer step toward the workers' mean, and copies it to all workers."""
    put_(params, next_center(params, uniform(comm.num_workers), state, comm, outer))


def stretch_to(
    mean: Leaves,
    state: State,
    groups: Sequence[int],
    comm: Communicator,
    lengths: Callable[[Tensor], Tensor],
) -> None:
    """Moves a mean nearer to the center, or further away, in the same direction, by groups.

    Args:
        mean: moved in place.
        state: with the "center".
        groups: the group of each leaf, numbered from 0.
        comm: connects all workers.
        lengths: the groups' distances from the center -> what they become, (G,) -> (G,). Those
            that are zero stay.
    """
    center = state["center"]
    found = joint_norms(comm.leaf_distances(mean, center).unsqueeze(0), groups)[0]
    factors = torch.where(found > 0.0, lengths(found) / found, 1.0)
    stretch_(mean, center, factors[list(groups)].tolist())


def mean_of_workers(params: Stack, comm: Communicator) -> Leaves:
    """The plain mean of all workers' current parameters."""
    return comm.weighted_mean(params, uniform(comm.num_workers))
