"""Processes of a run on this machine, from their start to their end."""

import os
import signal
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from grawa.comm.count_file import VARIABLE as COUNTS
from grawa.lab.train.fork_server import Command, ForkServer, Process, fork_server
from grawa.lab.train.stop import STOPS, StoppedError
from grawa.launching.shared import shared_files, threads_each, without_launchers
from grawa.rendezvous import STORE

_STOPPED = {StoppedError(number, saved=True).exit_code: number for number in STOPS}
"""Exit codes of processes that have stopped with a checkpoint."""

_SHARED = 2
"""Files that all processes share: the store's and the counts'."""


class Started:
    """Processes that have been started, by rank.

    Args:
        server: starts them.
        errors: the file in which each says why it fails.
    """

    def __init__(self, server: ForkServer, errors: Sequence[str]) -> None:
        self._server, self._errors = server, errors
        self.processes: list[Process] = []

    def start(self, restarts: int) -> None:
        """Starts all, which were started so often before."""
        for rank in range(len(self._errors)):
            self.processes.append(self._start(rank, restarts))

    def start_again(self, rank: int, restarts: int) -> None:
        """Starts a process that has ended again, while the others go on."""
        os.truncate(self._errors[rank], 0)
        self.processes[rank] = self._start(rank, restarts)

    def _start(self, rank: int, restarts: int) -> Process:
        return self._server.start({
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "TORCHELASTIC_RESTART_COUNT": str(restarts),
            "TORCHELASTIC_ERROR_FILE": self._errors[rank],
        })

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
        path = self._errors[rank]
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


@dataclass(frozen=True)
class Starter:
    """Starts the processes of a run together, again and again.

    Args:
        server: starts each.
        files: that they share, and one for each process.
    """

    server: ForkServer
    files: list[str]

    @contextmanager
    def started(self, restarts: int = 0) -> Generator[Started]:
        """Starts processes, and ends those that still run at the end of the block.

        Args:
            restarts: how often they were started before.

        Yields:
            The processes.
        """
        for path in self.files:
            os.truncate(path, 0)
        group = Started(self.server, self.files[_SHARED:])
        try:
            group.start(restarts)
            yield group
        finally:
            group.end()


@contextmanager
def starter(
    command: Command,
    processes: int,
    told: Mapping[str, str] = MappingProxyType({}),
    check: Callable[[], None] = lambda: None,
) -> Generator[Starter]:
    """Prepares to start processes.

    Args:
        command: what they do.
        processes: number of processes.
        told: more environment variables.
        check: called while their imports are waited for; what it raises ends that.

    Yields:
        What starts them.
    """
    with shared_files(_SHARED + processes) as (files, descriptors):
        store, counts, *_ = files
        own = {STORE: store, COUNTS: counts, **told}
        with fork_server(command, _environment(processes) | own, descriptors, check) as server:
            yield Starter(server, files)


def _environment(processes: int) -> dict[str, str]:
    """The environment of all processes: as torchrun's, but without an address."""
    ours = without_launchers()
    ours.setdefault("OMP_NUM_THREADS", str(threads_each(processes)))
    return ours | {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
