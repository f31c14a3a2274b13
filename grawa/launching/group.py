"""The processes that `grawa.launch` has started, seen from the one that has."""

import multiprocessing
import pickle
import signal
import sys
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Literal

from grawa.launching.output import flush, show
from grawa.launching.worker import Done, Failed, Job, work

_LOOK_SECONDS = 0.1
"""Between two looks whether all processes are there."""

_DEATH_SECONDS = 0.2
"""How much later it may be seen that a process has died than that it is missing."""

_END_SECONDS = 5.0
"""How long processes may take to end that have told their result."""


class WorkerTraceback(Exception):
    """Where an error was raised on a worker: the cause of the error that `launch` raises."""


@dataclass
class _Worker:
    rank: int
    process: BaseProcess
    pipe: Connection
    result: bytes | None = None
    """Of `train`; `None` as long as it goes on."""


class Group:
    """Processes that do the same.

    Args:
        method: how they are started.
    """

    def __init__(self, method: Literal["fork", "spawn"]) -> None:
        self._context = (
            multiprocessing.get_context("fork")
            if method == "fork"
            else multiprocessing.get_context("spawn")
        )
        self._workers: list[_Worker] = []

    def start(self, job: Job, count: int) -> None:
        """Starts so many."""
        for stream in (sys.stdout, sys.stderr):
            flush(stream)  # or forks would print what is kept in it once more
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of Python, about threads
            for rank in range(count):
                pipe, its = self._context.Pipe(duplex=False)
                with its:
                    process = self._context.Process(target=work, args=(job, rank, its))
                    self._workers.append(_Worker(rank, process, pipe))
                    process.start()

    def results(self) -> list[bytes]:
        """Waits for all, and shows meanwhile what they print.

        Returns:
            The results, by rank. If a process fails, its error is raised at once.
        """
        while running := [worker for worker in self._workers if worker.result is None]:
            wait([worker.pipe for worker in running], _LOOK_SECONDS)
            for worker in running:
                if (error := _look(worker)) is not None:
                    raise self._death_of_another(worker) or error
        return [worker.result for worker in self._workers if worker.result is not None]

    def _death_of_another(self, failed: _Worker) -> Exception | None:
        """The end of a process without a word, which others may tell of before it is seen here."""
        time.sleep(_DEATH_SECONDS)
        others = (w for w in self._workers if w is not failed and w.process.exitcode is not None)
        return next(filter(None, map(_look, others)), None)

    def end(self) -> None:
        """Ends those that still run: at once, unless all have told their results."""
        started = [worker for worker in self._workers if worker.process.pid is not None]
        if all(worker.result is not None for worker in started):
            for worker in started:
                worker.process.join(_END_SECONDS)
        for worker in started:
            worker.process.kill()
        for worker in started:
            worker.process.join()
            worker.process.close()
        for worker in self._workers:
            worker.pipe.close()


def _look(worker: _Worker) -> Exception | None:
    """Takes what a process has sent: all of it, if it has ended.

    Returns:
        Why it has failed, if it has.
    """
    has_ended = worker.process.exitcode is not None
    try:
        while worker.result is None and worker.pipe.poll():
            message = worker.pipe.recv()
            if isinstance(message, Failed):
                return _error(worker.rank, message)
            if isinstance(message, Done):
                worker.result = message.result
            else:
                show(message.text, getattr(sys, message.stream))
            if not has_ended:
                return None  # others may have sent something, too
    except EOFError:
        worker.process.join(_END_SECONDS)
        has_ended = True
    if has_ended and worker.result is None:
        return RuntimeError(f"worker {worker.rank} {_end(worker.process.exitcode)}")
    return None


def _end(code: int | None) -> str:
    """How a process has ended that has told nothing of it, in words."""
    if code is not None and code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code} before the function returned; see its output above"


def _error(rank: int, failed: Failed) -> Exception:
    """A worker's error; one that can't be sent, or would end this process, in words."""
    error: object = None
    if failed.error is not None:
        with suppress(Exception):  # such as of a class that only the worker knows
            error = pickle.loads(failed.error)
    if not isinstance(error, Exception):
        error = RuntimeError(f"worker {rank} failed: {failed.text}")
    error.__cause__ = WorkerTraceback(f"in worker {rank}:\n{failed.traceback}")
    return error
