"""Runs trials in separate processes, several at a time; one that is killed costs only its trial."""

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from ctypes import c_bool, c_uint64
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.sharedctypes import RawValue
from types import TracebackType
from typing import Any, Self

import torch

from grawa.lab.experiments.study import Trial
from grawa.lab.experiments.trial import Prepare, Result, run_trial
from grawa.lab.train.failed import WorkerFailedError

_LOOK_SECONDS = 0.3
"""Seconds between a process's checks whether it should end, and of the pool's on its processes."""

_SILENT_LOOKS = 200
"""Looks, a minute, after which a process that shows no sign of life is killed: it was stopped."""

_END_SECONDS = 10.0
"""Seconds that processes may take to end before they are killed."""


class TrialPool:
    """Processes that each run one trial at a time, with one thread.

    They start with the first trial, and end with the `with` block or with this process. They are
    forked from a process that has done the imports already, which take longer than a small trial.
    A trial whose process was killed, or stopped for a minute, is run once more in a new process.

    Args:
        prepare: makes tasks and strategies.
        jobs: trials at a time.
        tell: called with a line for the user when a trial is run once more.
    """

    def __init__(
        self, prepare: Prepare, jobs: int, tell: Callable[[str], object] = lambda _: None
    ) -> None:
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload([prepare.__module__])
        self._prepare, self._jobs, self._tell = prepare, jobs, tell
        # Polled, since whoever waits for an event would wait for a dead process's answer, too.
        self._stop = RawValue(c_bool, False)
        self._processes: list[_Process] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._stop.value = True
        deadline = time.monotonic() + _END_SECONDS
        for process in self._processes:
            process.end(deadline)

    def run(self, trials: Sequence[Trial]) -> Iterator[Result]:
        """Runs trials.

        Args:
            trials: the trials.

        Yields:
            Each result when its trial has ended.

        Raises:
            WorkerFailedError: after all other trials, if a trial's processes were killed twice.
        """
        left, lost, twice = deque(trials), set[str](), list[str]()
        while left or any(process.trial for process in self._processes):
            self._hand_out(left)
            for process in self._ready():
                trial, outcome = process.taken()
                if isinstance(outcome, Result):
                    yield outcome
                    continue
                self._processes.remove(process)
                if trial.key in lost:
                    twice.append(f"{trial.key}: {outcome}")
                    continue
                self._tell(f"{trial.key}: {outcome}; it is run once more")
                lost.add(trial.key)
                left.append(trial)
        if twice:
            raise WorkerFailedError(
                f"{'; '.join(twice)}, twice (is there enough memory?); all other trials are saved, "
                "and the same command continues from there"
            )

    def _hand_out(self, left: deque[Trial]) -> None:
        """Gives each free process a trial, and starts those that are missing."""
        while left:
            free = next((process for process in self._processes if process.trial is None), None)
            if free is None and len(self._processes) >= self._jobs:
                return
            if free is None:
                with _interrupted_later():
                    free = _Process(self._context, self._prepare, self._stop)
                    self._processes.append(free)
            free.give(left.popleft())

    def _ready(self) -> "list[_Process]":
        """The processes that have something to say, or that have ended."""
        busy = {process.connection: process for process in self._processes if process.trial}
        ready = wait(list(busy), _LOOK_SECONDS)
        for process in busy.values():
            process.look()
        return [process for connection, process in busy.items() if connection in ready]


class _Process:
    """A process that runs trials, as its parent sees it.

    Args:
        context: starts it.
        prepare: makes tasks and strategies.
        stop: set when it is to end.

    Attributes:
        trial: what it runs now.
        connection: where its results come from.
    """

    def __init__(self, context: Any, prepare: Prepare, stop: Any) -> None:
        self.trial: Trial | None = None
        self.connection: Connection
        self.connection, theirs = context.Pipe()
        self._pulse = RawValue(c_uint64, 0)
        self._seen, self._silent = 0, 0
        self._process = context.Process(
            target=_serve, args=(prepare, theirs, stop, self._pulse), daemon=True
        )
        self._process.start()
        theirs.close()  # so that its end is seen here

    def give(self, trial: Trial) -> None:
        """Starts a trial."""
        self.trial, self._silent = trial, 0
        with suppress(OSError):  # it is gone, which `taken` tells
            self.connection.send(trial)

    def look(self) -> None:
        """Kills the process if it has shown no sign of life for long.

        Looks are counted, not seconds: if this process is stopped too, as by Ctrl-Z, none is made.
        """
        now = self._pulse.value
        self._silent = self._silent + 1 if now == self._seen else 0
        self._seen = now
        if self._silent > _SILENT_LOOKS:
            self._process.kill()

    def taken(self) -> tuple[Trial, Result | str]:
        """The trial that is over, with its result or the fate of its process; raises its error."""
        trial, self.trial = self.trial, None
        assert trial is not None, "it was given one"
        try:
            outcome = self.connection.recv()
        except (EOFError, OSError):
            self._process.join(_END_SECONDS)
            return trial, f"its process was {self._fate()}"
        if isinstance(outcome, BaseException):
            raise outcome
        return trial, outcome

    def _fate(self) -> str:
        code = self._process.exitcode
        stopped = ", since it had been stopped" if self._silent > _SILENT_LOOKS else ""
        if code is not None and code < 0:
            return f"killed by {signal.Signals(-code).name}{stopped}"
        return f"ended with exit code {code}"

    def end(self, deadline: float) -> None:
        """Waits for its end, and kills it if that takes too long."""
        self.connection.close()
        self._process.join(max(0.0, deadline - time.monotonic()))
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()


@contextmanager
def _interrupted_later() -> Generator[None]:
    """Delays Ctrl-C until the block has ended, and blocks it in processes that start in the block.

    They inherit the signal mask: otherwise one that is still importing would end with a traceback.

    Raises:
        KeyboardInterrupt: at the end, if Ctrl-C was pressed.
    """
    received: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    resource_tracker.ensure_running()  # its start lets Ctrl-C through
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        signal.signal(signal.SIGINT, before)
    if received:
        raise KeyboardInterrupt


def _serve(prepare: Prepare, connection: Connection, stop: Any, pulse: Any) -> None:
    """What a process does: trials, one after another, until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # `stop` ends it instead
    torch.set_num_threads(1)
    threading.Thread(target=_watch, args=(stop, pulse), daemon=True).start()
    with suppress(EOFError, OSError):
        while True:
            trial = connection.recv()
            try:
                outcome: Result | Exception = run_trial(prepare, trial)
            except Exception as error:
                outcome = error
            connection.send(outcome)


def _watch(stop: Any, pulse: Any) -> None:
    """Shows that this process lives; ends it when `stop` is set or its parent has ended."""
    parent = parent_process()
    assert parent is not None
    while not stop.value and parent.is_alive():
        pulse.value += 1
        time.sleep(_LOOK_SECONDS)
    os._exit(1)
