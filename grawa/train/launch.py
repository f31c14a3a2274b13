"""Starting the processes of a run on this machine, and saying which one failed."""

import logging
import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from grawa.comm.distributed import DEFAULT_TIMEOUT
from grawa.errors import CommunicationError, UserError

Event = TypeVar("Event")
Value = TypeVar("Value")

_GRACE_SECONDS = 1.0
"""How long a worker that lost another holds back its own error, so that the cause is named."""

_SHUTDOWN_SECONDS = 5
"""How long processes may take to end before they are killed."""


class WorkerFailedError(RuntimeError):
    """A process of the run failed, and all others were ended."""


def under_launcher() -> bool:
    """Whether this process was started by torchrun or another launcher that sets RANK."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def is_first_process() -> bool:
    """Whether this process keeps the records: rank 0, or one that was not launched."""
    return int(os.environ.get("RANK", "0")) == 0


def launch(command: Sequence[str], processes: int) -> None:
    """Runs a command in several new processes of this machine and waits for them.

    The processes are started by torch's elastic launcher, as torchrun would, and see its
    environment variables. When one fails, all are ended. A process should run its work in
    `distributed`, decorated with `torch.distributed.elastic`'s `record`.

    Args:
        command: arguments for the Python interpreter.
        processes: how many.

    Raises:
        UserError: if a process raised one.
        WorkerFailedError: if a process failed otherwise; it names the rank and the cause.
        KeyboardInterrupt: as it came, after all processes were ended.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    # Its warnings and tracebacks would come before, and hide, the one line that we print.
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
    """The rank that failed of itself, and why; not one that only lost contact with another."""
    causes = {rank: _cause(failure) for rank, failure in failures.items()}
    ranks = sorted(causes, key=lambda rank: failures[rank].timestamp)
    own = [rank for rank in ranks if not causes[rank].startswith(CommunicationError.__name__)]
    rank = (own or ranks)[0]
    return rank, causes[rank]


def _cause(failure: ProcessFailure) -> str:
    details = failure.error_file_data.get("message")
    if isinstance(details, dict):
        return str(details["message"])
    if failure.exitcode < 0:
        return f"killed by {failure.signal_name()}"
    return f"exit code {failure.exitcode}; see its output above"


@contextmanager
def distributed(
    device: str = "auto", timeout: timedelta = DEFAULT_TIMEOUT
) -> Generator[torch.device]:
    """The process group of a script that torchrun started; nothing for one that was not.

    Args:
        device: "cpu" for gloo, "cuda" for NCCL, "auto" for what the machine has.
        timeout: how long a message may wait for the others.

    Yields:
        The device of this process: with GPUs, one for each process of a machine.

    Raises:
        CommunicationError: as the body did, or if not all processes came.
    """
    place = pick_device(device)
    if not under_launcher():
        yield place
        return
    try:
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=timeout)
    except RuntimeError as error:
        raise CommunicationError(f"not all processes came together: {error}") from error
    neighbours = _neighbours()
    try:
        yield place
    except CommunicationError:
        _wake(neighbours)
        # The process that failed first is to be found first.
        time.sleep(_GRACE_SECONDS)
        raise
    finally:
        dist.destroy_process_group()


def pick_device(name: str) -> torch.device:
    """The device of this process.

    Args:
        name: "auto" for a GPU if there is one, or a device's name.

    Returns:
        The device; a GPU is made the current one.

    Raises:
        UserError: if there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        if not torch.cuda.is_available():
            raise UserError("device cuda was asked for, but this machine has no usable GPU")
        index = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
        torch.cuda.set_device(index)
        return torch.device("cuda", index)
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise UserError(f"there is no device {name!r}: use auto, cpu or cuda") from error


def from_first(value: Value) -> Value:
    """What rank 0 has, on every rank; collective where there is a process group."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def _neighbours() -> list[int]:
    """The processes of the group that live on this machine."""
    everyone: list[tuple[str, int]] = [("", 0)] * dist.get_world_size()
    here = socket.gethostname()
    dist.all_gather_object(everyone, (here, os.getpid()))
    return [pid for host, pid in everyone if host == here]


def _wake(pids: Sequence[int]) -> None:
    """Lets stopped processes go on, since a signal to end reaches a process only awake."""
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGCONT)


def while_parent_lives(events: Iterator[Event]) -> Iterator[Event]:
    """The same events, as long as the process lives that started this one and would end it.

    Yields:
        The events.

    Raises:
        WorkerFailedError: if the parent is gone.
    """
    parent = os.getppid()
    for event in events:
        if os.getppid() != parent:
            raise WorkerFailedError("the process that started this worker is gone")
        yield event
