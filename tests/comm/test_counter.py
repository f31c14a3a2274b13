"""A count that processes share: nobody waits for it, and a store that is silent is noticed."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection

import pytest
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, Store, TCPStore

from grawa.comm import DistributedCommunicator
from grawa.comm.counter import SharedCounter
from grawa.comm.pool import give_back, lease
from grawa.errors import CommunicationError
from tests.world import on_ranks

PATIENCE = timedelta(seconds=30)


def known(counter: SharedCounter, at_least: int) -> int:
    """The count, once everything up to a number is known, without adding to it."""
    end = time.monotonic() + PATIENCE.total_seconds()
    while (total := counter.add(0)) < at_least and time.monotonic() < end:
        time.sleep(0.001)
    return total


def test_own_steps_count_at_once_and_the_others_soon() -> None:
    store = HashStore()
    one, other = (SharedCounter(lambda: store, "steps", PATIENCE) for _ in range(2))
    assert [one.add(1) for _ in range(5)] == [1, 2, 3, 4, 5]
    assert other.add(2) >= 2
    assert known(one, 7) == known(other, 7) == 7
    for counter in (one, other):
        counter.close(wait=True)


def connections_of_two_leases() -> bool:
    ranks, timeout = [0, 1], timedelta(seconds=20)
    first = lease(ranks, timeout)
    connection = first.connection()
    give_back(first)
    return lease(ranks, timeout).connection() is connection


@pytest.mark.world
def test_a_connection_to_the_store_is_opened_once_and_kept() -> None:
    assert on_ranks(2, connections_of_two_leases) == [True, True]


def test_a_reset_sets_the_count() -> None:
    store = HashStore()
    one, other = (SharedCounter(lambda: store, "steps", PATIENCE) for _ in range(2))
    one.add(100)
    assert known(other, 100) == 100
    one.reset(3)
    other.reset(4)
    assert known(one, 7) == known(other, 7) == 7
    assert one.add(1) == 8
    for counter in (one, other):
        counter.close(wait=True)


def hold_a_store(pipe: Connection) -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    pipe.send(store.port)
    pipe.recv()


@pytest.mark.parametrize("answered", [True, False])
def test_steps_do_not_wait_for_a_stopped_store_and_it_is_noticed_after_the_timeout(
    answered: bool,
) -> None:
    mine, its = multiprocessing.get_context("forkserver").Pipe()
    process = multiprocessing.get_context("forkserver").Process(target=hold_a_store, args=(its,))
    process.start()
    assert process.pid is not None
    store = TCPStore("127.0.0.1", mine.recv(), is_master=False)
    connect: Callable[[], Store] = store.clone  # type: ignore[attr-defined]
    counter, other = (SharedCounter(connect, "steps", timedelta(seconds=1)) for _ in range(2))
    try:
        if answered:
            counter.add(1)
            assert known(other, 1) == 1
        os.kill(process.pid, signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(CommunicationError, match="count local steps") as found:
            while time.monotonic() - began < PATIENCE.total_seconds():
                before = time.monotonic()
                counter.add(1)
                assert time.monotonic() - before < 0.5
                time.sleep(0.01)
        assert 1.0 <= time.monotonic() - began < 10.0
        assert "longer than the timeout of 1 s" in str(found.value)
    finally:
        os.kill(process.pid, signal.SIGCONT)
        mine.send("end")
        process.join()


def count_together() -> tuple[int, int]:
    """The count that two processes come to, and that after a reset."""
    comm = DistributedCommunicator()
    for _ in range(10):
        comm.count(1)
    end = time.monotonic() + PATIENCE.total_seconds()
    while comm.count(0) < 20 and time.monotonic() < end:
        time.sleep(0.001)
    first = comm.count(0)
    dist.barrier()
    comm.reset_count(1 + dist.get_rank())
    while comm.count(0) < 3 and time.monotonic() < end:
        time.sleep(0.001)
    second = comm.count(0)
    dist.barrier()
    comm.release()
    again = DistributedCommunicator()  # on the same process group
    assert again.count(0) == 0
    return first, second


@pytest.mark.world
def test_processes_count_together_and_begin_anew() -> None:
    assert on_ranks(2, count_together) == [(20, 3)] * 2
