"""Starting the processes of a run on this machine, and saying which one failed."""

import logging
import multiprocessing
import os
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from grawa.errors import CommunicationError, UserError

_GRACE_SECONDS = 3.0
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


def launch(entry: Callable[..., None], args: Sequence[Any], processes: int) -> None:
    """Runs `entry(*args)` in several new processes and waits for them.

    The processes are started by torch's elastic launcher and see its environment variables;
    `entry` must be importable and opens the process group with `process_group`. When one fails,
    all are ended.

    Args:
        entry: what each process runs.
        args: its arguments, which can be pickled.
        processes: how many.

    Raises:
        UserError: if a process raised one.
        WorkerFailedError: if a process failed otherwise; it names the rank and the cause.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    # Its warnings and tracebacks would come before, and hide, the one line that we print.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    multiprocessing.set_forkserver_preload([entry.__module__])
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="forkserver",
        shutdown_timeout=_SHUTDOWN_SECONDS,
    )
    try:
        elastic_launch(config, entry)(*args)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        name, _, text = _cause(failure).partition(": ")
        if name == UserError.__name__:
            raise UserError(text) from None
        raise WorkerFailedError(f"rank {rank} failed: {_cause(failure)}") from None


def _cause(failure: ProcessFailure) -> str:
    details = failure.error_file_data.get("message")
    if isinstance(details, dict):
        return str(details["message"])
    if failure.exitcode < 0:
        return f"killed by {failure.signal_name()}"
    return f"exit code {failure.exitcode}"


@contextmanager
def process_group(device: str, timeout: timedelta) -> Generator[None]:
    """The default process group of a launched process, closed at the end.

    Args:
        device: "cpu" for gloo, "cuda" for NCCL, "auto" for what the machine has.
        timeout: how long a message may wait for the others.

    Yields:
        Nothing.

    Raises:
        CommunicationError: as the body did.
    """
    gpu = device != "cpu" and torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    dist.init_process_group("nccl" if gpu else "gloo", timeout=timeout)
    try:
        yield
    except CommunicationError:
        # The process that failed first is to be found first.
        time.sleep(_GRACE_SECONDS)
        raise
    finally:
        dist.destroy_process_group()
