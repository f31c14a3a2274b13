"""Keeping workers alike in what no strategy looks after: the start, and buffers."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from grawa.comm.participants import Participants
from grawa.comm.protocol import Transport
from grawa.math.leaves import Leaves, Stack
from grawa.math.motion import put_
from grawa.math.weights import uniform
from grawa.workers.target import Target


def average_buffers(
    target: Target, comm: Transport, active: Tensor, mean: Leaves | None
) -> Leaves | None:
    """Floating-point buffers become their mean, all others the workers' maximum.

    Args:
        target: whose buffers.
        comm: all workers.
        active: (N,), true for those who take part.
        mean: where the last mean was put, to be used again.

    Returns:
        Where the mean was put, if there are floating-point buffers.
    """
    if comm.num_workers == 1:
        return None
    if target.floats:
        others = Participants(comm, active)
        mean = others.weighted_mean(target.floats, uniform(comm.num_workers), mean)
        put_(target.floats, mean)
    set_others(target.others, comm, lambda everyone: everyone.amax(dim=0))
    return mean


def mend_buffers(target: Target, comm: Transport, active: Tensor, broken: Sequence[int]) -> None:
    """Gives hosted workers that start again the mean of the others' buffers; collective.

    Args:
        target: whose buffers.
        comm: all workers.
        active: (N,), true for those who are sound.
        broken: the hosted workers that start again.
    """
    if target.floats:
        sound = Participants(comm, active)
        mean = sound.weighted_mean(target.floats, uniform(comm.num_workers))
        for k in broken:
            put_(target.floats.worker(k), mean)
    set_others(target.others, comm, lambda everyone: everyone.amax(dim=0))


def set_others(stack: Stack, comm: Transport, pick: Callable[[Tensor], Tensor]) -> None:
    """Sets buffers that don't hold floats to what is picked from all workers' values, (N, C)."""
    if not stack:
        return
    flat = [rows.reshape(len(rows), -1).to(torch.float64) for rows in stack.values()]
    picked = pick(comm.gather(torch.cat(flat, dim=1))())
    parts = torch.split(picked, [rows.shape[1] for rows in flat])
    for rows, part in zip(stack.values(), parts, strict=True):
        rows.copy_(part.view(rows.shape[1:]))
