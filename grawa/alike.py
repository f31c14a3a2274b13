"""Keeping workers alike in what no strategy looks after: the start, and buffers."""

from collections.abc import Callable

import torch
from torch import Tensor

from grawa.math.motion import put_
from grawa.math.weights import uniform
from grawa.protocols import Communicator
from grawa.replicas import Replicas
from grawa.stack import Leaves


def start_alike(replicas: Replicas, comm: Communicator) -> None:
    """Gives every worker the parameters, frozen ones too, and the buffers of worker 0."""
    if comm.num_workers == 1:
        return
    first = torch.zeros(comm.num_workers, 1, dtype=torch.float64)
    first[0] = 1.0
    floats = replicas.buffers(torch.is_floating_point)
    for stack in (replicas.params, replicas.others(), floats):
        if stack:
            put_(stack, comm.weighted_mean(stack, first))
    _set_integers(replicas, comm, lambda everyone: everyone[0])


def average_buffers(replicas: Replicas, comm: Communicator, mean: Leaves | None) -> Leaves | None:
    """Floating-point buffers become their mean, all others the workers' maximum.

    Args:
        replicas: the hosted workers.
        comm: those who take part.
        mean: where the last mean was put, to be used again.

    Returns:
        Where the mean was put, if there are floating-point buffers.
    """
    if comm.num_workers == 1:
        return None
    floats = replicas.buffers(torch.is_floating_point)
    if floats:
        mean = comm.weighted_mean(floats, uniform(comm.num_workers), mean)
        put_(floats, mean)
    _set_integers(replicas, comm, lambda everyone: everyone.amax(dim=0))
    return mean


def _set_integers(replicas: Replicas, comm: Communicator, pick: Callable[[Tensor], Tensor]) -> None:
    """Sets the other buffers to what is picked from all workers' values, (N, C)."""
    stack = replicas.buffers(lambda buffer: not torch.is_floating_point(buffer))
    if not stack:
        return
    flat = [rows.reshape(len(rows), -1).to(torch.float64) for rows in stack.values()]
    picked = pick(comm.gather(torch.cat(flat, dim=1))())
    parts = torch.split(picked, [rows.shape[1] for rows in flat])
    for rows, part in zip(stack.values(), parts, strict=True):
        rows.copy_(part.view(rows.shape[1:]))
