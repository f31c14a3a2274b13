"""Runs work in new processes: in all at the same time, or one job after another."""

import ctypes
import gc
import os
import signal
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from multiprocessing import active_children, get_context
from multiprocessing.context import ForkServerContext
from typing import TypeVar

import torch
from rich.progress import track
from torch.multiprocessing.spawn import start_processes

Job = TypeVar("Job")
Found = TypeVar("Found")

_PRELOADED = [
    *("torch", "torch._dynamo", "sklearn.datasets", "grawa.lab.train.loop"),
    *("matplotlib.pyplot", "rich.progress", "tyro"),
]
"""Packages that are imported already in each new process."""


def fresh_processes() -> ForkServerContext:
    """A context for new processes, in which only the imports have been done."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the processes share the cores
    context = get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def together(work: Callable[..., None], processes: int, *args: object) -> None:
    """Runs `work(rank, *args)` in several processes at once; if one fails, ends all."""
    fresh_processes()
    running = start_processes(
        _worker, (work, args), processes, join=False, daemon=True, start_method="forkserver"
    )
    try:
        while not running.join():
            pass
    finally:
        for process in running.processes:
            process.kill()
            process.join()


def _worker(rank: int, work: Callable[..., None], args: Sequence[object]) -> None:
    begin()
    work(rank, *args)


def one_by_one(
    work: Callable[[Job], Found], jobs: Sequence[Job], at_a_time: int, title: str
) -> Iterator[tuple[Job, Found]]:
    """Each job with its result, in order; shows progress.

    Args:
        work: the function to run on a job, with one thread.
        jobs: its arguments.
        at_a_time: number of processes; with 1 the jobs run in this process.
        title: of the progress bar.

    Yields:
        A job and its result, as soon as it is available.
    """
    if at_a_time == 1:
        with one_thread():
            for job in track(jobs, title):
                yield job, work(job)
        return
    with ProcessPoolExecutor(at_a_time, fresh_processes(), begin) as pool:
        try:
            found = pool.map(work, jobs)
            yield from track(zip(jobs, found, strict=True), title, total=len(jobs))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def as_they_end(
    work: Callable[[Job], Found], jobs: Iterable[Job], at_a_time: int
) -> Iterator[tuple[Job, Found]]:
    """Each job with its result, as soon as it is available.

    Args:
        work: the function to run on a job, with one thread.
        jobs: its arguments; each is taken when it can begin.
        at_a_time: number of processes; with 1 the jobs run in this process.

    Yields:
        A job and its result.
    """
    if at_a_time == 1:
        with one_thread():
            yield from ((job, work(job)) for job in jobs)
        return
    rest, running = iter(jobs), dict[Future[Found], Job]()
    before = set(active_children())
    pool = ProcessPoolExecutor(at_a_time, fresh_processes(), begin)
    try:
        while True:
            for job in islice(rest, at_a_time - len(running)):
                running[pool.submit(work, job)] = job
            if not running:
                return
            for ended in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(ended), ended.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        if running:  # an error, or Ctrl-C: nobody wants their results
            for child in set(active_children()) - before:
                child.kill()


@contextmanager
def one_thread() -> Generator[None]:
    """Limits torch to one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def begin() -> None:
    """Sets a new process up: it ignores Ctrl-C, ends with its parent, and uses one thread.

    Imported objects are excluded from garbage collection, which makes it faster.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    set_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2), Linux
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
    torch.set_num_threads(1)
    gc.freeze()
