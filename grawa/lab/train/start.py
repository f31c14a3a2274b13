"""Processes of a run on this machine, from their start to their end."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from tempfile import TemporaryDirectory
from types import MappingProxyType

from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from grawa.comm.count_file import VARIABLE as COUNTS
from grawa.lab.train.stop import STOPS, StoppedError
from grawa.rendezvous import STORE

_STOPPED = {StoppedError(number, saved=True).exit_code: number for number in STOPS}
"""Exit codes of processes that have stopped with a checkpoint."""

_DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux."""

_OF_LAUNCHERS = {
    *("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK", "ROLE_RANK"),
    *("TORCHFT_LIGHTHOUSE", "REPLICA_GROUP_ID", "NUM_REPLICA_GROUPS"),
}
"""What another launcher may have left in the environment, besides TORCHELASTIC_*."""


@dataclass(frozen=True)
class Started:
    """Processes that have been started, by rank."""

    processes: list[Popen[bytes]]
    errors: list[str]
    """The file in which each says why it fails."""
    start: Callable[[int, int], Popen[bytes]]
    """Starts the process of a rank, which was started so often before."""

    def start_again(self, rank: int, restarts: int) -> None:
        """Starts a process that has ended again, while the others go on."""
        os.truncate(self.errors[rank], 0)
        self.processes[rank] = self.start(rank, restarts)

    def failures(self) -> dict[int, ProcessFailure]:
        """Those that have failed so far."""
        codes = [process.poll() for process in self.processes]
        return {
            rank: ProcessFailure(rank, self.processes[rank].pid, code, self._said(rank))
            for rank, code in enumerate(codes)
            if code and code not in _STOPPED
        }

    def _said(self, rank: int) -> str:
        """The file in which a process says why it failed; none if it said nothing."""
        path = self.errors[rank]
        return path if Path(path).stat().st_size else "nothing"

    def has_ended(self) -> bool:
        """Whether all have ended."""
        return all(process.poll() is not None for process in self.processes)

    def stopped(self) -> signal.Signals | None:
        """The signal that a process reports which has stopped with a checkpoint, if one has."""
        found = self.stops().values()
        # One that has got no signal itself reports SIGTERM.
        return max(found, key=lambda number: number is not signal.SIGTERM, default=None)

    def stops(self) -> dict[int, signal.Signals]:
        """Those that have stopped with a checkpoint, and the signal that they report."""
        codes = {rank: process.poll() for rank, process in enumerate(self.processes)}
        return {rank: _STOPPED[code] for rank, code in codes.items() if code in _STOPPED}

    def done(self) -> list[int]:
        """Those that have come to their end."""
        return [rank for rank, process in enumerate(self.processes) if process.poll() == 0]

    def ask(self) -> None:
        """Asks all that run to stop; suspended ones go on, to hear it."""
        for number in (signal.SIGTERM, signal.SIGCONT):
            for process in self.processes:
                process.send_signal(number)

    def end(self) -> None:
        """Ends all that run."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()


@contextmanager
def started(
    command: Sequence[str],
    processes: int,
    restarts: int = 0,
    told: Mapping[str, str] = MappingProxyType({}),
) -> Generator[Started]:
    """Starts processes, and ends those that still run at the end of the block.

    Args:
        command: arguments for the Python interpreter.
        processes: number of processes.
        restarts: how often they were started before.
        told: more environment variables.

    Yields:
        The processes.
    """
    with _files(processes + 2) as (paths, descriptors):
        store, counts, *errors = paths

        def start(rank: int, restarts: int) -> Popen[bytes]:
            own = {STORE: store, COUNTS: counts, "TORCHELASTIC_ERROR_FILE": errors[rank], **told}
            return Popen(
                [sys.executable, *command],
                env=_environment(rank, processes, restarts) | own,
                pass_fds=descriptors,
                preexec_fn=_begins(os.getpid()),
            )

        group = Started([], errors, start)
        try:
            for rank in range(processes):
                group.processes.append(start(rank, restarts))
            yield group
        finally:
            group.end()


@contextmanager
def _files(number: int) -> Generator[tuple[list[str], list[int]]]:
    """Empty files for this process and those that it starts, which nobody else can open.

    On Linux they are memory, have no name, and are gone with the last process, however it ends.

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


def _environment(rank: int, processes: int, restarts: int) -> dict[str, str]:
    """The environment of a process: as torchrun's, but without an address."""
    ours = without_launchers()
    ours.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    numbers = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": processes,
        "LOCAL_WORLD_SIZE": processes,
        "TORCHELASTIC_RESTART_COUNT": restarts,
    }
    return ours | {name: str(value) for name, value in numbers.items()}


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


def _begins(parent: int) -> Callable[[], None]:
    """As `tied_to`; Ctrl-C waits until its imports are done, which would end with a traceback."""
    tie = tied_to(parent)

    def begin() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        tie()

    return begin
