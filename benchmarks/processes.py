"""Work in processes of their own: all together, or one job after the other."""

import ctypes
import gc
import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
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
"""What each new process finds there: packages, but nothing that was computed."""


def fresh_processes() -> ForkServerContext:
    """Where processes come from that have imported what they need, and done nothing yet."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the processes share the cores
    context = get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def together(work: Callable[..., None], processes: int, *args: object) -> None:
    """Runs `work(rank, *args)` in several processes at once; if one fails, all are ended."""
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
    """Each job and what came of it, in their order, with progress.

    Args:
        work: what is to be done, on one thread.
        jobs: on what.
        at_a_time: how many processes share the jobs; with 1 they are done in this one.
        title: of the progress.

    Yields:
        As soon as it is there.
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


@contextmanager
def one_thread() -> Generator[None]:
    """Torch computes on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def begin() -> None:
    """What each process does first: Ctrl-C is for its parent, and it ends when the parent ends.

    It computes on one thread. What was imported is no garbage, and is not looked through for it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    set_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2), Linux
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
    torch.set_num_threads(1)
    gc.freeze()
