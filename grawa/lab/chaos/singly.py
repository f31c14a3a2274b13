"""A job of elastic workers, which a cluster's scheduler starts one by one, and again."""

import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from grawa.lab.chaos.job import Place, Worker
from grawa.lab.chaos.programs import Program, end_all, marked
from grawa.lab.chaos.watch import Logs

_PORT = 29_400
"""Of the lighthouse, on a host of its own."""

_LIGHTHOUSE = "grawa.lab.chaos.lighthouse"


class Singly:
    """Elastic workers, each started by itself, and their lighthouse, which is never disturbed.

    One that ends with an error is started again at once, unless another one has come to the end.

    Args:
        places: the hosts of the workers; and, if they are hosts, one more for the lighthouse.
        hosts: how many have workers.
        workers: of all hosts together.
        command: the command line of a worker's process, given its host.
        environment: a host's environment.
        logs: the folder for what the workers print.
        mark: by which the job's processes are known.
        at: the address of the lighthouse.
        grace: how long a round waits for a slow worker; "" for as long as it lives.
        patience: how often in a row workers may fail without a round before the scheduler gives up.

    Attributes:
        seen: all processes that were its workers.
    """

    def __init__(
        self,
        places: Sequence[Place],
        hosts: int,
        workers: int,
        command: Callable[[int], Sequence[str]],
        environment: Callable[[int], Mapping[str, str]],
        logs: Path,
        mark: str,
        at: str,
        grace: str,
        patience: int,
    ) -> None:
        self._places, self._hosts, self._workers = places, hosts, workers
        self._command, self._environment = command, environment
        self._folder, self.mark, self._grace = logs, mark, grace
        self._at = f"{at}:{_PORT if len(places) > hosts else _free_port()}"
        self.logs = Logs(logs)
        self.over, self.failure, self.hold = False, "", False
        self.orphans: list[str] = []
        self.seen: set[int] = set()
        self._most_failures = patience * workers
        self._fruitless = 0
        self._lighthouse: Program | None = None
        self._programs: dict[int, Program] = {}
        self._starts = [0] * workers

    def start(self) -> None:
        """See `Job.start`."""
        if self._lighthouse is None:
            words = [sys.executable, "-m", _LIGHTHOUSE, self._at, self._grace]
            log = self._folder / "lighthouse.log"
            self._lighthouse = self._places[-1].start(words, self._environment(self._hosts), log)
        for worker in range(self._workers):
            self._start(worker)

    def _start(self, worker: int) -> None:
        host = self._host(worker)
        place = self._places[host]
        if not place.is_up:
            place.boot()
        told = {
            "TORCHFT_LIGHTHOUSE": self._at,
            "RANK": str(worker),
            "WORLD_SIZE": str(self._workers),
            "TORCHELASTIC_RESTART_COUNT": str(self._starts[worker]),
        }
        log = self._folder / f"worker-{worker}.log"
        environment = {**self._environment(host), **told}
        self._programs[worker] = place.start(self._command(host), environment, log)
        self._starts[worker] += 1

    def _host(self, worker: int) -> int:
        return worker * self._hosts // self._workers

    def tend(self) -> None:
        """See `Job.tend`."""
        if self.over or self.failure or self.hold:
            return
        codes = {worker: program.code for worker, program in self._programs.items()}
        failed = [worker for worker, code in codes.items() if code]
        has_end = 0 in codes.values()
        if has_end and None not in codes.values():
            self.over = True
        for worker in () if has_end else failed:
            self._fruitless += 1
            if self._fruitless > self._most_failures:
                times = f"{self._fruitless} times without a round"
                self.failure = f"its workers failed {times}: {self.logs.last_error()}"
                return
            self._start(worker)

    def settled(self) -> None:
        """See `Job.settled`."""
        self._fruitless = 0

    def launchers(self) -> dict[int, int]:
        """See `Job.launchers`; there are none."""
        return {}

    def workers(self) -> dict[int, Worker]:
        """See `Job.workers`."""
        pids = {worker: program.pid for worker, program in self._programs.items()}
        found = {w: Worker(pid, self._host(w)) for w, pid in pids.items() if pid is not None}
        self.seen |= {worker.pid for worker in found.values()}
        return found

    def end(self) -> None:
        """See `Job.end`."""
        for program in (*self._programs.values(), self._lighthouse):
            if program is not None:
                program.kill()
        self._lighthouse = None
        end_all(marked(self.mark))


def _free_port() -> int:
    """A port of the loopback interface at which nothing listens."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
