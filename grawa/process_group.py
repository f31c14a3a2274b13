"""The process group of a training script, and this process's device."""

import gc
import os
import signal
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress

import torch
import torch.distributed as dist

from grawa.comm import pool
from grawa.comm.distributed import DEFAULT_TIMEOUT
from grawa.comm.elastic import Place, in_place
from grawa.comm.hosts import this_machine
from grawa.durations import Duration, positive
from grawa.errors import CommunicationError, UserError
from grawa.rendezvous import launched, number, open_group

_GRACE_SECONDS = 1.0
"""A worker that lost another waits so long before it raises, so that the cause is seen first."""


def under_launcher() -> bool:
    """Whether this process was started by torchrun or another launcher that sets RANK."""
    return launched() is not None


def is_first_process() -> bool:
    """Whether this process writes files: rank 0, or one that no launcher started."""
    rank, _ = launched() or (0, 1)
    return rank == 0


def restart_count() -> int:
    """How often this process's launcher has started its processes again.

    Returns:
        The number, 0 at first; agents of torchrun on different hosts may count differently.
    """
    return number("TORCHELASTIC_RESTART_COUNT")


def may_restart() -> bool:
    """Whether torchrun starts this process again if it fails."""
    return number("TORCHELASTIC_MAX_RESTARTS") > restart_count()


def launch_name() -> str | None:
    """A name that the processes of one launch share, also when they are started again, if known."""
    if (place := _elastic_place()) is not None:
        return f"lighthouse {place.lighthouse}"
    names = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    return " ".join(os.environ.get(name, "") for name in names)


@contextmanager
def distributed(
    device: str = "auto", timeout: Duration = DEFAULT_TIMEOUT
) -> Generator[torch.device]:
    """Opens the process group of a script that torchrun started.

    It does nothing if no launcher started the script, or if the process group is open already, as
    under `grawa.launch`.

    Processes that `torchrun --max-restarts` starts again find each other. On one machine, gloo and
    NCCL listen on the loopback interface only, unless GLOO_SOCKET_IFNAME names another.

    Under torchft's launchers, which set TORCHFT_LIGHTHOUSE, there is no process group: an Averager
    with `elastic=` learns here which worker this is.

    Args:
        device: "cpu" for gloo, "cuda" for NCCL, "auto" for CUDA if the machine has a GPU.
        timeout: how long a message may wait for the others: a timedelta, seconds, or a text such
            as "10m".

    Yields:
        The device of this process: with GPUs, one for each process of a machine.

    Raises:
        CommunicationError: if the body raised it, or not all processes connected.
    """
    place, longest = pick_device(device), positive(timeout, "timeout")
    if (told := _elastic_place()) is not None:
        with in_place(told):
            yield place
        return
    if not under_launcher() or dist.is_initialized():
        yield place
        return
    open_group("nccl" if place.type == "cuda" else "gloo", longest)
    neighbours = _neighbours(place)
    try:
        yield place
    except CommunicationError:
        _wake(neighbours)
        # The launcher reports the first error, which should be the cause.
        time.sleep(_GRACE_SECONDS)
        raise
    finally:
        _close()


def _close() -> None:
    """Closes the process group, and waits for the end of its threads.

    They let go of the last message's tensors a little later than the message is done. If one does
    so when the interpreter has begun to end, C++ ends the process by SIGABRT.
    """
    pool.forget()
    gc.collect()  # an Averager that is over refers to itself, and to its group
    dist.destroy_process_group()


def _elastic_place() -> Place | None:
    """Which worker this is, if torchft's launcher or one like it has started it."""
    lighthouse = os.environ.get("TORCHFT_LIGHTHOUSE")
    names = ("REPLICA_GROUP_ID", "NUM_REPLICA_GROUPS")
    if names[0] not in os.environ:
        names = ("RANK", "WORLD_SIZE")
    if lighthouse is None or not all(name in os.environ for name in names):
        return None
    worker, size = (number(name) for name in names)
    return Place(lighthouse.removeprefix("http://").rstrip("/"), worker, size)


def pick_device(name: str) -> torch.device:
    """The device of this process.

    Args:
        name: "auto" for a GPU if there is one, or a device's name in any case; "gpu" is "cuda".

    Returns:
        The device; a GPU is made the current one.

    Raises:
        UserError: if there is no such device.
    """
    name = name.lower()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    name = "cuda" if name == "gpu" else name
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device {name} was asked for, but this machine has no usable GPU")
    if name == "cuda":
        index = number("LOCAL_RANK") % torch.cuda.device_count()
        torch.cuda.set_device(index)
        return torch.device("cuda", index)
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"device {name!r} can't be used here: use auto, cpu or cuda") from error
    return device


def _neighbours(device: torch.device) -> list[int]:
    """The process ids of the group's processes on this machine."""
    # As a tensor, since torch needs NumPy to gather objects.
    own = torch.tensor([this_machine(), os.getpid()], device=device)
    everyone = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, own)
    here, _ = own.tolist()
    return [pid for machine, pid in torch.stack(everyone).tolist() if machine == here]


def _wake(pids: Sequence[int]) -> None:
    """Resumes stopped processes, which would not act on a signal to end."""
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGCONT)
