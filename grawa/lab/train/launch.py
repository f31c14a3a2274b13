"""Starts the processes of a run on this machine, and reports which one failed."""

import logging
import os
import signal
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from grawa.errors import CommunicationError, UserError

Event = TypeVar("Event")
Value = TypeVar("Value")

_SHUTDOWN_SECONDS = 1
"""How long processes may take to end before they are killed. After Ctrl-C, which they ignore, they
are always killed after this time."""


class WorkerFailedError(RuntimeError):
    """A process of the run failed, and all others were ended."""


def launch(command: Sequence[str], processes: int) -> None:
    """Runs a command in several new processes of this machine and waits for them.

    The processes are started by torch's elastic launcher, as torchrun does, with its environment
    variables. If one fails, all are ended. A process should run its work within `distributed`, in a
    function decorated with `torch.distributed.elastic`'s `record`.

    Args:
        command: arguments for the Python interpreter.
        processes: number of processes.

    Raises:
        UserError: if a process raised one.
        WorkerFailedError: if a process failed otherwise; it names the rank and the cause.
        KeyboardInterrupt: after Ctrl-C, once all processes have ended.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    # The launcher's warnings and tracebacks would hide the one line that we print.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        shutdown_timeout=_SHUTDOWN_SECONDS,
    )
    try:
        elastic_launch(config, sys.executable)(*command)
    except SignalException as stop:
        if stop.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise WorkerFailedError(f"ended by {stop.sigval.name}") from None
    except ChildFailedError as error:
        rank, cause = _first_cause(error.failures)
        name, _, text = cause.partition(": ")
        if name == UserError.__name__:
            raise UserError(text) from None
        raise WorkerFailedError(f"rank {rank} failed: {cause}") from None


def _first_cause(failures: Mapping[int, ProcessFailure]) -> tuple[int, str]:
    """The rank that failed first, and why; not one that lost contact or that was ended for it."""
    causes = {rank: _cause(failure) for rank, failure in failures.items()}
    ranks = sorted(causes, key=lambda rank: failures[rank].timestamp)
    free = [rank for rank in ranks if failures[rank].exitcode != -signal.SIGTERM]
    own = [rank for rank in free if not causes[rank].startswith(CommunicationError.__name__)]
    rank = (own or free or ranks)[0]
    return rank, causes[rank]


def _cause(failure: ProcessFailure) -> str:
    details = failure.error_file_data.get("message")
    if isinstance(details, dict):
        return str(details["message"])
    if failure.exitcode < 0:
        return f"killed by {failure.signal_name()}"
    return f"exit code {failure.exitcode}; see its output above"


def from_first(value: Value) -> Value:
    """Rank 0's value, on every rank; collective if there is a process group."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def while_parent_lives(events: Iterator[Event]) -> Iterator[Event]:
    """Passes events on as long as the parent process lives, which would otherwise end this one.

    Yields:
        The events.

    Raises:
        WorkerFailedError: if the parent process has ended.
    """
    parent = os.getppid()
    for event in events:
        if os.getppid() != parent:
            raise WorkerFailedError("the process that started this worker has ended")
        yield event
