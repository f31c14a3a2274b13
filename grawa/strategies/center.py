"""How a center is updated: it is the workers' weighted mean, or steps toward the mean."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grawa.counts import check_count
from grawa.errors import UserError
from grawa.math.leaves import Leaves, Stack
from grawa.math.motion import put_, stretch_
from grawa.math.outer import nesterov_
from grawa.math.weights import uniform
from grawa.scores.displacement import joint_norms
from grawa.strategies.checks import check_not_negative
from grawa.strategies.outer_optimizer import Make, OuterOptimizer, is_restarted
from grawa.strategies.protocol import Communicator, State


@dataclass(frozen=True, kw_only=True)
class OuterNesterov:
    """An outer optimizer: the center steps toward the mean with Nesterov momentum.

    Args:
        lr: 1 steps all the way to the mean, before momentum is added.
        momentum: how much of the previous outer steps is kept, in [0, 1).
        restart_every: the momentum starts again from zero after so many rounds; `None` for never.

    Source: Douillard et al. (2023), "DiLoCo: Distributed Low-Communication Training of Language
    Models", section 3; Topollai et al. (2026), "Outer-Momentum Restarting in High-Dimensional
    Two-Phase Optimization" (arXiv 2605.28585), for `restart_every`, from its abstract.
    Deviation: the paper's momentum is 0.9, with 500 local steps between rounds. With 4 to 256 steps
    it lost to LocalSGD on both tasks tried, and 0.3 was level (`benchmarks/outer_momentum.py`). A
    restart after every third round made up for part of what 0.9 lost.
    """

    lr: float = 0.7
    momentum: float = 0.3
    restart_every: int | None = None

    def __post_init__(self) -> None:
        check_not_negative("outer lr", self.lr)
        if not 0.0 <= self.momentum < 1.0:
            raise UserError(f"outer momentum must lie in [0, 1), got {self.momentum}")
        if self.restart_every is not None:
            check_count("restart_every", self.restart_every)

    def first_state(self, center: Leaves) -> State:
        """See `OuterOptimizer.first_state`."""
        return {"momentum": center.zeros_like()}

    def move_(self, center: Leaves, mean: Leaves, began: Leaves, state: State, round: int) -> None:
        """See `OuterOptimizer.move_`."""
        momentum = state["momentum"]
        if is_restarted(round, self.restart_every):
            torch._foreach_zero_(momentum.flats)
        nesterov_(center, momentum, mean, lr=self.lr, momentum_decay=self.momentum, began=began)


Outer = OuterNesterov | OuterOptimizer | Make
"""What an `outer=` may be: a class or a `functools.partial` of `torch.optim` will do."""


def outer_of(outer: Outer) -> OuterNesterov | OuterOptimizer:
    """The outer optimizer that a user means, as a value that can be compared and printed."""
    return outer if isinstance(outer, OuterNesterov | OuterOptimizer) else OuterOptimizer(outer)


def first_center(params: Stack, outer: Outer | None = None) -> State:
    """The state before the first round, when all workers have the same parameters.

    Returns:
        "center", and with an outer optimizer the other entries of `moving_center`.
    """
    center = Leaves.copy_of(params)
    return {"center": center} if outer is None else moving_center(center, outer_of(outer))


def moving_center(center: Leaves, outer: OuterNesterov | OuterOptimizer | None = None) -> State:
    """The state of a center that moves by steps, in place of being the mean itself.

    An outer step can be smaller than the resolution of 16 bits. So with 16-bit parameters the steps
    are applied to "exact", the center in float32, and "center" is a 16-bit copy of it.

    Args:
        center: the common initial parameters.
        outer: the outer optimizer, if its steps are made by one.

    Returns:
        "center", "mean" (scratch memory), what the optimizer keeps and, if some parameters have 16
        bits, "exact".
    """
    wide = center.widened()
    state = {"center": center, "mean": center.zeros_like()}
    if outer is not None:
        state |= outer.first_state(wide)
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
    outer: Outer | None = None,
    round: int | None = None,
    change: Callable[[Leaves], None] = lambda mean: None,
) -> Leaves:
    """Moves the state's center by one round, in place.

    Args:
        params: name -> (K, *shape).
        weights: (N, L) or (N, 1).
        state: from `first_center`.
        comm: connects all workers.
        outer: as for `first_center`.
        round: number of earlier rounds, which an outer optimizer needs.
        change: with an outer optimizer, moves the mean in place before the center steps toward it.

    Returns:
        The center.
    """
    if outer is None:
        return comm.weighted_mean(params, weights, state["center"])
    assert round is not None, "the strategy passes it on"
    mean, optimizer = comm.weighted_mean(params, weights, state["mean"]), outer_of(outer)
    change(mean)
    return step_center(
        state, lambda center: optimizer.move_(center, mean, state["center"], state, round)
    )


def restart_from_center(
    params: Stack, state: State, comm: Communicator, outer: Outer, round: int
) -> None:
    """Moves the center by an outer step toward the workers' mean, and copies it to all workers."""
    put_(params, next_center(params, uniform(comm.num_workers), state, comm, outer, round))


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
