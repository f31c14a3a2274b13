"""A job on hosts, and what a cluster's scheduler does with it: start, end, and let it go on."""

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from grawa.lab.chaos.programs import (
    Program,
    children_of,
    end_all,
    environment_of,
    is_alive,
    marked,
)
from grawa.lab.chaos.watch import Logs

_KILL_SECONDS = 40.0
"""From SIGTERM to SIGKILL, when the scheduler ends what is left of a job: torchrun takes 30 s to
end a worker that does not react."""

_ORPHAN_SECONDS = 20.0
"""How much longer than the timeout workers may live without their launcher."""

PATIENCE = 5
"""So often in a row a job may end without a round before the scheduler gives up."""


class Place(Protocol):
    """A host, or this machine."""

    @property
    def is_up(self) -> bool:
        """Whether programs can be started there."""
        ...

    def boot(self) -> None:
        """Starts it anew."""
        ...

    def start(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> Program:
        """Starts a program there."""
        ...


class Worker(NamedTuple):
    """A worker's process."""

    pid: int
    host: int


class Job(Protocol):
    """What faults are done to, whoever starts its processes."""

    mark: str
    """By which its processes are known."""
    logs: Logs
    over: bool
    """Whether it has come to its end."""
    failure: str
    """Why it never will; empty if it may."""
    orphans: list[str]
    """Processes that lived on without their launcher."""
    hold: bool
    """Whether the scheduler does not look after it now."""

    def start(self) -> None:
        """Starts it, or lets it go on."""
        ...

    def tend(self) -> None:
        """What the scheduler does now; to be called again and again."""
        ...

    def settled(self) -> None:
        """Says that it makes rounds."""
        ...

    def launchers(self) -> dict[int, int]:
        """Host -> the process of its launcher."""
        ...

    def workers(self) -> dict[int, Worker]:
        """Rank -> its process."""
        ...

    def end(self) -> None:
        """Ends all of its processes by force."""
        ...


class Launched:
    """A job with one launcher on each host, which starts the workers there.

    If a launcher fails or is killed, the scheduler ends the others, waits until all workers have
    ended, and then continues the job on all hosts: as SLURM does with `--requeue`.

    Args:
        places: the hosts.
        command: the command line of a host's launcher: host, number of the attempt from 0.
        environment: a host's environment.
        logs: the folder for what the launchers and their workers print.
        mark: by which the job's processes are known.
        timeout: of the job's messages, in seconds.
        patience: how often in a row it may end without a round before the scheduler gives up.

    Attributes:
        seen: all processes that were its workers.
    """

    def __init__(
        self,
        places: Sequence[Place],
        command: Callable[[int, int], Sequence[str]],
        environment: Callable[[int], Mapping[str, str]],
        logs: Path,
        mark: str,
        timeout: float,
        patience: int,
    ) -> None:
        self._places, self._command, self._environment = places, command, environment
        self._folder, self.mark, self._timeout = logs, mark, timeout
        self.logs = Logs(logs)
        self.over, self.failure, self.hold = False, "", False
        self.orphans: list[str] = []
        self.seen: set[int] = set()
        self._patience = patience
        self._programs: list[Program] = []
        self._attempts, self._fruitless = 0, 0
        self._ending: float | None = None
        self._alone: float | None = None

    def start(self) -> None:
        """See `Job.start`."""
        self._ending = self._alone = None
        self._programs = []
        for host, place in enumerate(self._places):
            if not place.is_up:
                place.boot()
            log = self._folder / f"attempt-{self._attempts:02d}-host-{host}.log"
            words = self._command(host, self._attempts)
            self._programs.append(place.start(words, self._environment(host), log))
        self._attempts += 1

    def tend(self) -> None:
        """See `Job.tend`."""
        if self.over or self.failure or self.hold:
            return
        codes = [program.code for program in self._programs]
        if any(code is None for code in codes):
            if any(code for code in codes):
                self._end_others()
        elif not any(codes):
            self.over = self._all_gone()
        elif self._all_gone():
            self._go_on()

    def _end_others(self) -> None:
        """Ends the launchers that are left: politely, and after a time by force."""
        if self._ending is None:
            self._ending = time.monotonic()
            for program in self._programs:
                program.signal(signal.SIGTERM)
        elif time.monotonic() > self._ending + _KILL_SECONDS:
            for program in self._programs:
                program.kill()

    def _all_gone(self) -> bool:
        """Whether no process is left, now that all launchers have ended; ends those that stay."""
        left = marked(self.mark)
        if not left:
            return True
        now = time.monotonic()
        self._alone = now if self._alone is None else self._alone
        seconds = self._timeout + _ORPHAN_SECONDS
        if now < self._alone + seconds:
            return False
        for pid in left:
            what = environment_of(pid).get("RANK")
            self.orphans.append(f"{'a process' if what is None else f'rank {what}'} (pid {pid})")
        end_all(left)
        return True

    def _go_on(self) -> None:
        self._fruitless += 1
        if self._fruitless >= self._patience:
            times = "" if self._fruitless == 1 else f" {self._fruitless} times in a row"
            self.failure = f"it ended{times} without a result: {self.logs.last_error()}"
        else:
            self.start()

    def settled(self) -> None:
        """See `Job.settled`."""
        self._fruitless = 0

    def launchers(self) -> dict[int, int]:
        """See `Job.launchers`."""
        pids = {host: program.pid for host, program in enumerate(self._programs)}
        return {host: pid for host, pid in pids.items() if pid is not None}

    def workers(self) -> dict[int, Worker]:
        """See `Job.workers`."""
        found = {}
        for host, launcher in self.launchers().items():
            for pid in children_of(launcher):
                rank = environment_of(pid).get("RANK")
                if rank is not None and is_alive(pid):
                    found[int(rank)] = Worker(pid, host)
        self.seen |= {worker.pid for worker in found.values()}
        return found

    def end(self) -> None:
        """See `Job.end`."""
        for program in self._programs:
            program.kill()
        end_all(marked(self.mark))
