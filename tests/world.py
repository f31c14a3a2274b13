"""Four processes with real sockets between them, started once and shared by all tests.

A job is a function of a test module and its arguments. It runs on the first `size` processes,
each with a fresh default process group, so that a job that breaks its group harms no other.
"""

import atexit
import multiprocessing
import os
import pickle
import time
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

SIZE = 4
PATIENCE_SECONDS = 60.0
"""How long a job may take before its processes count as hung."""

Given = ParamSpec("Given")
Result = TypeVar("Result")


class World:
    """Processes that wait for jobs."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch", "torch._dynamo", "grawa"])
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        # It lives here, so that no worker's end breaks the others' rendezvous.
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._jobs = 0
        self._pipes: list[Connection] = []
        self._processes: list[ForkServerProcess] = []
        for rank in range(SIZE):
            mine, its = context.Pipe()
            process = context.Process(target=_serve, args=(its, self._store.port, rank))
            process.daemon = True
            process.start()
            its.close()
            self._pipes.append(mine)
            self._processes.append(process)

    def alive(self) -> bool:
        """Whether all processes are there."""
        return all(process.is_alive() for process in self._processes)

    def outcomes(self, size: int, job: bytes) -> list[object]:
        """What each of the first `size` processes returned or raised."""
        self._jobs += 1
        pipes = self._pipes[:size]
        for pipe in pipes:
            pipe.send_bytes(pickle.dumps((self._jobs, size, job)))
        found: dict[int, object] = {}
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(found) < size:
            waiting = [pipe for rank, pipe in enumerate(pipes) if rank not in found]
            ready = wait(waiting, timeout=max(0.0, deadline - time.monotonic()))
            for rank, pipe in enumerate(pipes):
                if pipe in ready:
                    found[rank] = self._received(rank, size)
            if not ready:
                missing = sorted(set(range(size)) - set(found))
                self.close()
                raise TimeoutError(f"ranks {missing} hang; the others came to {found}")
        return [found[rank] for rank in range(size)]

    def _received(self, rank: int, size: int) -> object:
        try:
            return pickle.loads(self._pipes[rank].recv_bytes())
        except EOFError:
            _leave(PrefixStore(str(self._jobs), self._store), size)
            return RuntimeError(f"the process of rank {rank} ended")

    def close(self) -> None:
        """Ends all processes."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.kill()
            process.join(PATIENCE_SECONDS)


def _leave(store: Store, size: int) -> None:
    if store.add("left", 1) == size:
        store.set("all left", "")


def _serve(pipe: Connection, port: int, rank: int) -> None:
    """A process's life: jobs until the pipe is closed."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = TCPStore("127.0.0.1", port, is_master=False)
    while True:
        try:
            number, size, job = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        pipe.send_bytes(pickle.dumps(_outcome(PrefixStore(str(number), store), rank, size, job)))


def _outcome(store: Store, rank: int, size: int, job: bytes) -> object:
    """What a job came to; an exception carries its traceback as a note."""
    timeout = timedelta(seconds=PATIENCE_SECONDS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timeout)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            function, args, kwargs = pickle.loads(job)
            return function(*args, **kwargs)
    except Exception as error:
        error.add_note("".join(traceback.format_exception(error)))
        return error
    finally:
        # Whoever is done first stays, silent, until all are: no socket closes on the others.
        _leave(store, size)
        store.wait(["all left"], timeout)
        dist.destroy_process_group()


@cache
def _started() -> World:
    world = World()
    atexit.register(world.close)
    return world


def outcomes(
    size: int, function: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs
) -> list[Result | Exception]:
    """Runs a function on each of several processes; what it returned or raised, by rank."""
    world = _started()
    if not world.alive():
        world.close()
        _started.cache_clear()
        world = _started()
    job = pickle.dumps((function, args, kwargs))
    return world.outcomes(size, job)  # type: ignore[return-value]


def on_ranks(
    size: int, function: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs
) -> list[Result]:
    """Runs a function on each of several processes; what it returned, by rank."""
    found = outcomes(size, function, *args, **kwargs)
    errors = [outcome for outcome in found if isinstance(outcome, Exception)]
    if errors:
        raise ExceptionGroup("raised in other processes", errors)
    return [outcome for outcome in found if not isinstance(outcome, Exception)]
