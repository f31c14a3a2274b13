"""Runs trials in separate processes, several at a time."""

import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.synchronize import Event
from types import TracebackType
from typing import Self

import torch

from grawa.lab.experiments.study import Trial
from grawa.lab.experiments.trial import Prepare, Result, run_trial
from grawa.lab.train.launch import WorkerFailedError

_LOOK_SECONDS = 0.3
"""Seconds between a process's checks whether it should end."""


class TrialPool:
    """Processes that each run one trial at a time, with one thread.

    They start with the first trial, and end with the `with` block or with this process. They are
    forked from a process that has done the imports already, which take longer than a small trial.

    Args:
        prepare: makes tasks and strategies.
        jobs: trials at a time.
    """

    def __init__(self, prepare: Prepare, jobs: int) -> None:
        context = get_context("forkserver")
        context.set_forkserver_preload([prepare.__module__])
        self._prepare = prepare
        self._stop = context.Event()
        self._pool = ProcessPoolExecutor(jobs, context, _begin, (self._stop,))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if kind is not None:
            self._stop.set()  # after an error, running trials are ended
        self._pool.shutdown(wait=True, cancel_futures=True)

    def run(self, trials: Sequence[Trial]) -> Iterator[Result]:
        """Runs trials.

        Args:
            trials: the trials.

        Yields:
            Each result when its trial has ended.

        Raises:
            WorkerFailedError: if a process was killed.
        """
        work = partial(run_trial, self._prepare)
        try:
            with _interrupted_later():
                futures = [self._pool.submit(work, trial) for trial in trials]
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            raise WorkerFailedError(
                "the process of a trial was killed (is there enough memory?); finished trials are "
                "saved, and the same command continues from there"
            ) from None


@contextmanager
def _interrupted_later() -> Generator[None]:
    """Delays Ctrl-C until the block has ended, and blocks it in processes that start in the block.

    They inherit the signal mask: otherwise one that is still importing would end with a traceback.

    Raises:
        KeyboardInterrupt: at the end, if Ctrl-C was pressed.
    """
    received: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        signal.signal(signal.SIGINT, before)
    if received:
        raise KeyboardInterrupt


def _begin(stop: Event) -> None:
    """Sets a new process up: signals, threads, and a thread that waits for the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # `stop` ends it instead
    torch.set_num_threads(1)
    threading.Thread(target=_watch, args=(stop,), daemon=True).start()


def _watch(stop: Event) -> None:
    """Ends this process when `stop` is set, or when its parent has ended."""
    parent = parent_process()
    assert parent is not None
    while not stop.wait(_LOOK_SECONDS) and parent.is_alive():
        pass
    os._exit(1)
