"""What processes have in common that are started together on one machine."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

_DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux."""

_OF_LAUNCHERS = {
    *("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK", "ROLE_RANK"),
    *("TORCHFT_LIGHTHOUSE", "REPLICA_GROUP_ID", "NUM_REPLICA_GROUPS"),
}
"""What another launcher may have left in the environment, besides TORCHELASTIC_*."""


@contextmanager
def shared_files(number: int) -> Generator[tuple[list[str], list[int]]]:
    """Empty files for this process and those that it starts, which nobody else can open.

    On Linux they are memory, have no name, and are gone with the last process, however it ends.

    Args:
        number: how many.

    Yields:
        Their paths, and the descriptors that the other processes must inherit.
    """
    if not hasattr(os, "memfd_create"):
        with TemporaryDirectory(prefix="grawa-") as folder:
            paths = [Path(folder) / str(i) for i in range(number)]
            for path in paths:
                path.touch(0o600)
            yield [str(path) for path in paths], []
        return
    descriptors = [os.memfd_create("grawa") for _ in range(number)]
    try:
        yield [f"/proc/self/fd/{descriptor}" for descriptor in descriptors], descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def without_launchers() -> dict[str, str]:
    """The environment of this process, without what a launcher has set."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in _OF_LAUNCHERS and not name.startswith("TORCHELASTIC_")
    }


def threads_each(processes: int) -> int:
    """How many threads each of so many processes should compute with, on this machine's cores."""
    usable = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if usable else os.cpu_count() or 1
    return max(1, cores // processes)


def tied_to(parent: int) -> Callable[[], None]:
    """Returns what a new process does before anything else: it dies with its parent from then on.

    Args:
        parent: the process that starts it.

    Returns:
        The function that it calls.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def begin() -> None:
        if libc is not None:
            libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return begin
