"""Starts elastic workers on this machine, and starts those that die again, one by one."""

import time
from collections.abc import Callable
from datetime import timedelta

from grawa.comm.elastic import Elastic
from grawa.comm.lighthouse import lighthouse
from grawa.errors import CommunicationError, UserError
from grawa.lab.train.failed import WorkerFailedError
from grawa.lab.train.fork_server import Command
from grawa.lab.train.launch import (
    LOOK_SECONDS,
    await_same_signal,
    cause_of,
    error_of,
    saying_what_did_not_start,
)
from grawa.lab.train.start import Started, starter
from grawa.lab.train.stop import CAUGHT, STOP_WITHIN_SECONDS, StoppedError, StopSignals, announce

_MARGIN = timedelta(seconds=30)
"""How much longer than they would wait for each other the launcher waits for its workers' end."""


def launch_elastic(
    command: Command,
    workers: int,
    elastic: Elastic,
    *,
    max_restarts: int,
    tell: Callable[[str], None],
    on_start: Callable[[], None] = lambda: None,
    stop_within: float = STOP_WITHIN_SECONDS,
) -> None:
    """Runs elastic workers, each in a process of this machine, and the lighthouse in this one.

    One that dies is started again alone, while the others go on. One that gets SIGTERM itself saves
    a checkpoint at its next round and leaves. When one has come to the end, the run is over, and
    nobody is started again. Otherwise as `launch`.

    Args:
        command: what they do.
        workers: N.
        elastic: who may come and go.
        max_restarts: how often a worker is started again.
        tell: called with a sentence when a worker has died or left.
        on_start: called when all workers have been started; until then they are silent.
        stop_within: seconds until workers that were asked to stop are ended.

    If too few workers are left, it raises a `WorkerFailedError` that names them; and it raises the
    `UserError` of a worker.
    """
    signals = StopSignals()
    with signals.caught(CAUGHT), lighthouse(elastic) as at, saying_what_did_not_start(workers):
        told = {"TORCHFT_LIGHTHOUSE": at}
        with (
            starter(command, workers, told, signals.check) as several,
            several.started() as group,
        ):
            on_start()
            watch = _Watch(group, elastic, signals, tell, max_restarts, stop_within)
            while not (signals.at_once or watch.is_over()):
                watch.look()
                time.sleep(LOOK_SECONDS)
            watch.look()
        watch.check()


class _Watch:
    """What has become of the workers.

    Args:
        group: their processes.
        elastic: who may come and go.
        signals: that the launcher has got.
        tell: called with a sentence when a worker has died or left.
        max_restarts: how often a worker is started again.
        stop_within: seconds until workers that were asked to stop are ended.
    """

    def __init__(
        self,
        group: Started,
        elastic: Elastic,
        signals: StopSignals,
        tell: Callable[[str], None],
        max_restarts: int,
        stop_within: float,
    ) -> None:
        self._group, self._elastic, self._signals = group, elastic, signals
        self._tell, self._max_restarts, self._within = tell, max_restarts, stop_within
        self._restarts = [0] * len(group.processes)
        self._deadline: float | None = None
        self._asked = False
        self._told_of: set[int] = set()
        self._lost: dict[int, str] = {}

    def look(self) -> None:
        """Acts on what has happened since the last look; raises what would come again."""
        signals = self._signals
        if signals.first is not None and not self._asked:
            self._asked = True
            self._deadline = time.monotonic() + self._within
            self._group.ask()
            announce(signals.first, self._within)
        failures = {k: f for k, f in self._group.failures().items() if k not in self._lost}
        await_same_signal(failures)
        for worker, failure in failures.items():
            self._failed(worker, cause_of(failure))
        for worker, number in self._group.stops().items():
            if worker not in self._told_of and signals.first is None:
                self._told_of.add(worker)
                self._tell(f"worker {worker} leaves, with a checkpoint: it got {number.name}")

    def _failed(self, worker: int, cause: str) -> None:
        """Starts a worker again, or does without it."""
        error = error_of(worker, cause)
        if isinstance(error, UserError) or error.comes_again:
            raise error
        made = self._restarts[worker]
        if self._is_ending or _gave_up(cause) or made == self._max_restarts:
            self._lost[worker] = cause
            if not (self._is_ending or _gave_up(cause)):
                most = f"max_restarts is {made}"
                self._tell(f"worker {worker} failed: {cause}; it is not started again: {most}")
            return
        self._restarts[worker] += 1
        self._tell(
            f"worker {worker} failed: {cause}; it is started again, and the others go on (restart "
            f"{made + 1} of {self._max_restarts})"
        )
        self._group.start_again(worker, made + 1)

    @property
    def _is_ending(self) -> bool:
        """Whether a worker has come to the end of the run, or all are to stop."""
        return bool(self._group.done()) or self._signals.first is not None

    def is_over(self) -> bool:
        """Whether all have ended; or the run has, or is bound to, and the rest took too long."""
        group, count = self._group, len(self._restarts)
        gone = len(self._lost) + len(group.stops())
        if group.has_ended():
            return gone + len(group.done()) == count
        too_few = count - gone < self._elastic.min_workers
        if self._deadline is None and group.done():  # one that was just started again is alone
            self._deadline = time.monotonic() + self._elastic.times.timeout.total_seconds()
        elif self._deadline is None and too_few:
            self._deadline = time.monotonic() + (self._elastic.times.wait + _MARGIN).total_seconds()
        return self._deadline is not None and time.monotonic() > self._deadline

    def check(self) -> None:
        """Raises what the run has ended with, if no worker has come to its end."""
        if self._group.done():
            return
        stopped = self._group.stopped()
        number = self._signals.first or (None if self._lost else stopped)
        if number is not None:
            raise StoppedError(number, saved=stopped is not None)
        died = {k: why for k, why in self._lost.items() if not _gave_up(why)} or self._lost
        named = ", ".join(f"worker {worker} ({cause})" for worker, cause in sorted(died.items()))
        raise WorkerFailedError(
            f"too few workers are left, since these died and were not started again: {named}; the "
            f"others waited for {self._elastic.times.wait.total_seconds():g} s"
        )


def _gave_up(cause: str) -> bool:
    """Whether a worker has failed for want of others; it has waited then, and saved."""
    return cause.startswith(CommunicationError.__name__)
