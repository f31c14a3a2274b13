"""What all processes check together before the first step."""

import hashlib
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from grawa.comm import DistributedCommunicator, InProcessCommunicator
from grawa.comm.pool import ranks_of
from grawa.comm.protocol import Transport
from grawa.errors import UserError
from grawa.math.motion import put_
from grawa.workers.buffers import set_others
from grawa.workers.replicas import Replicas, fingerprint

Built = TypeVar("Built")

_DIGITS = 12  # of a hex digest: 48 bits, which float64 holds exactly


def check_alike(
    comm: Transport, build: Callable[[], Built], models: Sequence[nn.Module], options: str
) -> Built:
    """Builds the hosted workers and makes sure that all processes built the same.

    Args:
        comm: the other workers.
        build: makes the hosted workers.
        models: the hosted models.
        options: everything else that must be the same everywhere, in words.

    Returns:
        What was built.

    Raises:
        UserError: on every process, if the building failed on one, or models or options differ.
    """
    built: Built | None = None
    failure: UserError | None = None
    try:
        built = build()
    except UserError as error:
        failure = error
    row = [float(built is not None), _number(fingerprint(models[0])), _number(options)]
    rows = comm.gather(torch.tensor([row] * comm.num_hosted, dtype=torch.float64))()
    if failure is not None:
        raise failure
    for column, what in enumerate((
        "could not be set up",
        "has another model",
        "has other options",
    )):
        different = torch.where(rows[:, column] != (1.0 if column == 0 else rows[0, column]))[0]
        if len(different):
            raise UserError(
                f"worker {int(different[0])} {what}"
                + (" than worker 0" if column else "; see its own message")
                + "; every process must make the same model (names, shapes, dtypes), strategy and "
                "options before the Averager"
            )
    assert built is not None
    return built


def connect(
    group: dist.ProcessGroup | None,
    num_hosted: int,
    timeout: timedelta,
    *,
    device: torch.device | None = None,
    shared_memory: bool = True,
) -> Transport:
    """A communicator for the processes of a group, or for this one if there is no group at all.

    Args:
        group: who takes part; `None` for all processes, if there are several.
        num_hosted: workers per process.
        timeout: how long a message may wait for the others.
        device: where what is averaged lives, the CPU by default.
        shared_memory: whether processes of one machine may read each other's memory.

    Returns:
        The communicator.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return InProcessCommunicator(num_hosted)
    return DistributedCommunicator(
        ranks_of(group), num_hosted, timeout, device=device, shared_memory=shared_memory
    )


def _number(text: str) -> float:
    return float(int(hashlib.sha256(text.encode()).hexdigest()[:_DIGITS], 16))


def start_alike(replicas: Replicas, comm: Transport) -> None:
    """Gives every worker the parameters, frozen ones too, and the buffers of worker 0."""
    if comm.num_workers == 1:
        return
    first = torch.zeros(comm.num_workers, 1, dtype=torch.float64)
    first[0] = 1.0
    for stack in (replicas.params, replicas.others(), replicas.float_buffers()):
        if stack:
            put_(stack, comm.weighted_mean(stack, first))
    set_others(replicas.other_buffers(), comm, lambda everyone: everyone[0])
