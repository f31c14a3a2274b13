"""Runs a function on several new processes of this machine, also from a notebook."""

import importlib
import io
import os
import pickle
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeVar

import torch
import torch.distributed as dist

from grawa.comm.count_file import VARIABLE as COUNTS
from grawa.comm.distributed import DEFAULT_TIMEOUT
from grawa.counts import check_count
from grawa.durations import Duration, positive
from grawa.errors import UserError
from grawa.launching.group import Group
from grawa.launching.output import Form
from grawa.launching.shared import shared_files, threads_each
from grawa.launching.worker import Job
from grawa.process_group import under_launcher
from grawa.rendezvous import STORE

Result = TypeVar("Result")


def launch(
    train: Callable[[], Result],
    workers: int,
    *,
    device: str = "auto",
    timeout: Duration = DEFAULT_TIMEOUT,
) -> Result:
    """Runs a function on several new processes of this machine, which can average their models.

    For notebooks and scripts; `torchrun` starts a whole script instead. Each process has its rank,
    and an open process group, as within `grawa.distributed()`, which the function may call to get
    its device. What they print is seen here. If one fails, all are ended, and its error is raised
    here, with the worker's traceback as its cause; they are ended as well if this process is
    interrupted or killed.

    On Linux the processes are forks of this one, so the function may be defined in a notebook's
    cell, and uses what is there; what it changes is not seen here. Forks can't use GPUs where this
    process has used CUDA, and other systems can't fork; then the function must be importable.

    Args:
        train: takes no arguments (`functools.partial` gives it some).
        workers: number of processes.
        device: "cpu", "cuda" for a GPU each, "auto" for GPUs if the machine has some.
        timeout: how long a message may wait for the others, see `grawa.distributed`.

    Returns:
        What the function has returned on rank 0, with all tensors on the CPU.

    It raises what the function has raised on a worker; `RuntimeError` if a worker was killed, and
    `UserError` if the processes can't be started so.

    >>> import grawa
    >>> def count() -> int:
    ...     return torch.distributed.get_world_size()
    >>> grawa.launch(count, workers=2)
    2
    """
    _check(train, workers)
    kind = _device(device, workers)
    method, reason = _method(kind)
    if method == "spawn":
        _check_importable(train, reason)
    else:
        importlib.import_module("torch._dynamo")  # once for all: their optimizers import it
    with shared_files(2) as (files, _):
        mine = f"/proc/{os.getpid()}/"  # where spawned processes find them, too
        store, counts = (file.replace("/proc/self/", mine) for file in files)
        job = Job(
            train=train,
            device=kind,
            timeout=positive(timeout, "timeout"),
            variables={
                STORE: store, COUNTS: counts,
                "WORLD_SIZE": str(workers), "LOCAL_WORLD_SIZE": str(workers),
            },
            threads=None if "OMP_NUM_THREADS" in os.environ else threads_each(workers),
            parent=os.getpid(),
            forms=_forms(),
        )  # fmt: skip
        group = Group(method)
        try:
            group.start(job, workers)
            first, *_ = group.results()
        finally:
            group.end()
    result: Result = torch.load(io.BytesIO(first), map_location="cpu", weights_only=False)
    return result


def _check(train: object, workers: object) -> None:
    if not callable(train):
        raise UserError(f"launch takes a function without arguments, got {train!r}")
    check_count("workers", workers)
    if under_launcher() or dist.is_initialized():
        raise UserError(
            "this process is one of several already, started by torchrun or launch: call the "
            "function itself here (or unset RANK and WORLD_SIZE, if no launcher set them)"
        )


def _device(device: str, workers: int) -> str:
    """The kind of device that is meant; asks for GPUs in a way after which a fork can use them."""
    count = torch.cuda.device_count()
    kind = ("cuda" if count else "cpu") if device == "auto" else device
    if kind in ("cuda", "gpu") and workers > count:
        raise UserError(
            f"each of the {workers} workers needs a GPU, and this machine has {count} that can be "
            'used: pass device="cpu", or fewer workers'
        )
    return kind


def _method(device: str) -> tuple[Literal["fork", "spawn"], str]:
    """How processes are started: by "fork" where that is possible; otherwise why it is not."""
    if sys.platform != "linux":
        return "spawn", "on this system processes can't be forks of this one"
    if device != "cpu" and torch.cuda.is_initialized():
        return "spawn", "CUDA is in use in this process, and so can't be used in forks of it"
    if device.startswith("cuda") and not _forks_see_gpus():
        return "spawn", (
            "this process has asked for CUDA already, if only by torch.cuda.is_available(), so "
            "forks of it see no GPU"
        )
    if any(name.startswith("pt_autograd") for name in _threads()):
        return "spawn", "backward() has run here on a machine with a GPU, so it can't in forks"
    return "fork", ""


def _forks_see_gpus() -> bool:
    """Asks a fork, since the driver does not tell whether it is in use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python about threads, and of torch about the driver
        if (process := os.fork()) == 0:
            with suppress(Exception):
                os._exit(0 if torch.cuda.is_available() else 1)
            os._exit(1)
    return os.waitpid(process, 0)[1] == 0


def _threads() -> list[str]:
    """The names of this process's threads."""
    return [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]


def _check_importable(train: object, reason: str) -> None:
    """Refuses a function that a new process can't import."""
    main = sys.modules["__main__"]
    try:
        pickle.dumps(train)
        found = getattr(train, "__module__", "") != "__main__" or hasattr(main, "__file__")
    except (AttributeError, TypeError, pickle.PicklingError):
        found = False
    if not found:
        raise UserError(
            f"{reason}: put the function into a file and import it from there, so that new "
            "processes can import it too; or restart, and call launch before anything else"
        )


def _forms() -> dict[str, Form]:
    """Streams that are not the process's own, as in a notebook, to which output is forwarded."""
    pairs = {"stdout": (sys.stdout, sys.__stdout__), "stderr": (sys.stderr, sys.__stderr__)}
    return {name: Form.of(own) for name, (own, first) in pairs.items() if own not in (first, None)}
