"""Four processes with real sockets between them, started once and shared by all tests.

A job is a function of a test module and its arguments. It runs on the first `size` processes,
each with a fresh default process group, so that a job that breaks its group harms no other; or,
as torchrun would start it, with the environment variables that a script opens its group from.
"""

import atexit
import multiprocessing
import os
import pickle
import time
import traceback
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.forkserver import ensure_running
from typing import ParamSpec, TypeVar
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

SIZE = 4
PATIENCE_SECONDS = 60.0
"""How long a job may take before its processes count as hung."""

PRELOADED = ["torch", "torch._dynamo", "grawa.lab.cli.run", "grawa.lab.cli.trials"]
"""What the tests' processes are forked with."""

Given = ParamSpec("Given")
Result = TypeVar("Result")


class World:
    """Processes that wait for jobs."""

    def __init__(self) -> None:
        context = forks()
        # It lives here, so that no worker's end breaks the others' rendezvous.
        self._store = _hosted()
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

    def outcomes(self, size: int, job: bytes, *, launched: bool) -> list[object]:
        """What each of the first `size` processes returned or raised."""
        self._jobs += 1
        pipes = self._pipes[:size]
        launcher = _hosted() if launched else None
        for pipe in pipes:
            port = launcher.port if launcher else None
            pipe.send_bytes(pickle.dumps((self._jobs, size, port, job)))
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


def _hosted() -> TCPStore:
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


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
            number, size, launcher, job = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        own = PrefixStore(str(number), store)
        group = _launched(own, rank, size, launcher) if launcher else _grouped(own, rank, size)
        with group:
            outcome = _outcome(job)
        pipe.send_bytes(pickle.dumps(outcome))


def forks() -> ForkServerContext:
    """Starts processes by forking one that has done all imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    ensure_running()
    return context


@contextmanager
def _grouped(store: Store, rank: int, size: int) -> Generator[None]:
    """A job's process group."""
    timeout = timedelta(seconds=PATIENCE_SECONDS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timeout)
    try:
        yield
    finally:
        _wait_for_all(store, size)
        dist.destroy_process_group()


@contextmanager
def _launched(store: Store, rank: int, size: int, port: int) -> Generator[None]:
    """The environment that torchrun gives its processes, and a store at that port."""
    variables = {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip
    try:
        with patch.dict(os.environ, variables):
            yield
    finally:
        _wait_for_all(store, size)


def _wait_for_all(store: Store, size: int) -> None:
    """Whoever is done first stays, silent, until all are: no socket closes on the others."""
    _leave(store, size)
    store.wait(["all left"], timedelta(seconds=PATIENCE_SECONDS))


def _outcome(job: bytes) -> object:
    """What a job came to; an exception carries its traceback as a note."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            function, args, kwargs = pickle.loads(job)
            return function(*args, **kwargs)
    except Exception as error:
        error.add_note("".join(traceback.format_exception(error)))
        return error


@cache
def _started() -> World:
    world = World()
    atexit.register(world.close)
    return world


def _run(size: int, job: tuple[object, ...], *, launched: bool) -> list[object]:
    world = _started()
    if not world.alive():
        world.close()
        _started.cache_clear()
        world = _started()
    return world.outcomes(size, pickle.dumps(job), launched=launched)


def start_anew() -> None:
    """Ends the processes; the next job finds new ones, for tests that count descriptors or threads.

    What earlier tests have left running, such as torchft's threads, ends when it likes.
    """
    _started().close()
    _started.cache_clear()


def outcomes(
    size: int, function: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs
) -> list[Result | Exception]:
    """Runs a function on each of several processes; what it returned or raised, by rank."""
    return _run(size, (function, args, kwargs), launched=False)  # type: ignore[return-value]


def launched(
    size: int, function: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs
) -> list[Result | Exception]:
    """As `outcomes`, in processes as torchrun starts them: without a process group as yet."""
    return _run(size, (function, args, kwargs), launched=True)  # type: ignore[return-value]


def on_ranks(
    size: int, function: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs
) -> list[Result]:
    """Runs a function on each of several processes; what it returned, by rank."""
    return results(outcomes(size, function, *args, **kwargs))


def results(found: list[Result | Exception]) -> list[Result]:
    """What a job returned, by rank, if it raised nowhere."""
    errors = [outcome for outcome in found if isinstance(outcome, Exception)]
    if errors:
        raise ExceptionGroup("raised in other processes", errors)
    return [outcome for outcome in found if not isinstance(outcome, Exception)]
