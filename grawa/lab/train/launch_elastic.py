"""Starts elastic workers on this machine, and starts those that die again, one by one."""

import time
from collections.abc import Callable, Sequence
from datetime import timedelta

from grawa.comm.elastic import Elastic
from grawa.comm.lighthouse import lighthouse
from grawa.errors import CommunicationError, UserError
from grawa.lab.train.launch import (
    LOOK_SECONDS,
    WorkerFailedError,
    await_same_signal,
    cause_of,
    error_of,
    raise_stop,
    stops,
)
from grawa.lab.train.start import Started, started

_MARGIN = timedelta(seconds=30)
"""How much longer than they would wait for each other the launcher waits for its workers' end."""


def launch_elastic(
    command: Sequence[str],
    workers: int,
    elastic: Elastic,
    *,
    max_restarts: int,
    tell: Callable[[str], None],
) -> None:
    """Runs elastic workers, each in a process of this machine, and the lighthouse in this one.

    One that dies is started again alone, while the others go on. When one has come to the end, the
    run is over, and nobody is started again. Otherwise as `launch`.

    Args:
        command: arguments for the Python interpreter.
        workers: N.
        elastic: who may come and go.
        max_restarts: how often a worker is started again.
        tell: called with a sentence when a worker has died.

    If too few workers are left, it raises a `WorkerFailedError` that names them; and it raises the
    `UserError` of a worker.
    """
    with stops() as received, lighthouse(elastic) as at:
        with started(command, workers, told={"TORCHFT_LIGHTHOUSE": at}) as group:
            watch = _Watch(group, elastic, max_restarts, tell)
            while not received and not watch.is_over():
                failures = {k: f for k, f in group.failures().items() if k not in watch.lost}
                await_same_signal(failures)
                for worker, failure in failures.items():
                    if not received:
                        watch.failed(worker, cause_of(failure))
                time.sleep(LOOK_SECONDS)
        raise_stop(received)
        watch.check()


class _Watch:
    """What has become of the workers.

    Args:
        group: their processes.
        elastic: who may come and go.
        max_restarts: how often a worker is started again.
        tell: called with a sentence when a worker has died.

    Attributes:
        lost: those that are not started again, and why.
    """

    def __init__(
        self, group: Started, elastic: Elastic, max_restarts: int, tell: Callable[[str], None]
    ) -> None:
        self._group, self._elastic, self._tell = group, elastic, tell
        self._max_restarts = max_restarts
        self._restarts = [0] * len(group.processes)
        self._deadline: float | None = None
        self.lost: dict[int, str] = {}

    def failed(self, worker: int, cause: str) -> None:
        """Starts a worker again, or does without it; raises what would come again."""
        error = error_of(worker, cause)
        if isinstance(error, UserError) or error.comes_again:
            raise error
        made = self._restarts[worker]
        alone = _gave_up(cause)
        if self._has_end() or alone or made == self._max_restarts:
            self.lost[worker] = cause
            if not (self._has_end() or alone):
                most = f"max_restarts is {made}"
                self._tell(f"worker {worker} failed: {cause}; it is not started again: {most}")
            return
        self._restarts[worker] += 1
        self._tell(
            f"worker {worker} failed: {cause}; it is started again, and the others go on (restart "
            f"{made + 1} of {self._max_restarts})"
        )
        self._group.start_again(worker, made + 1)

    def _has_end(self) -> bool:
        """Whether a worker has come to the end of the run."""
        return any(process.poll() == 0 for process in self._group.processes)

    def is_over(self) -> bool:
        """Whether all have ended; or the run has, or is bound to, and the rest took too long."""
        if self._group.has_ended():
            return len(self.lost) + self._number_done() == len(self._restarts)
        left = len(self._restarts) - len(self.lost)
        if self._deadline is None and (self._has_end() or left < self._elastic.min_workers):
            self._deadline = time.monotonic() + (self._elastic.wait + _MARGIN).total_seconds()
        return self._deadline is not None and time.monotonic() > self._deadline

    def _number_done(self) -> int:
        return sum(process.poll() == 0 for process in self._group.processes)

    def check(self) -> None:
        """Raises a `WorkerFailedError` if no worker has come to the end."""
        if self._has_end():
            return
        died = {k: why for k, why in self.lost.items() if not _gave_up(why)} or self.lost
        worker, cause = list(died.items())[-1]
        raise WorkerFailedError(
            f"too few workers are left: of workers {', '.join(map(str, sorted(died)))}, which were "
            f"not started again, the last one was {worker} ({cause}); the others waited for "
            f"{self._elastic.wait.total_seconds():g} s"
        )


def _gave_up(cause: str) -> bool:
    """Whether a worker has failed for want of others; it has waited then, and saved."""
    return cause.startswith(CommunicationError.__name__)
