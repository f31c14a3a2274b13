"""A stranger can't connect to processes that have found each other."""

import socket
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from grawa.comm.listeners import _listening, closed_afterwards
from grawa.comm.pool import lease
from tests.world import on_ranks

TIMEOUT = timedelta(seconds=20)


def can_connect(descriptor: int) -> bool:
    with socket.socket(fileno=socket.dup(descriptor)) as listener:
        address = listener.getsockname()
    try:
        socket.create_connection(address, timeout=0.2).close()
    except TimeoutError:
        return False
    return True


def test_what_listened_before_goes_on_and_connections_stay() -> None:
    with socket.create_server(("127.0.0.1", 0)) as before:
        with closed_afterwards():
            new = socket.create_server(("127.0.0.1", 0))
            client = socket.create_connection(new.getsockname())
            accepted, _ = new.accept()
        with new, client, accepted:
            assert can_connect(before.fileno())
            assert not can_connect(new.fileno())
            client.sendall(b"there")
            assert accepted.recv(5) == b"there"


def strangers_of_a_new_group() -> tuple[bool, float]:
    """Whether a stranger connects to what listens for a new group; a sum that it makes then."""
    before = set(_listening())
    leased = lease([0, 1], TIMEOUT)
    dist.barrier(leased.group)
    new = [number for name, number in _listening().items() if name not in before]
    assert new
    connects = [can_connect(descriptor) for descriptor in new]
    total = torch.ones(1)
    dist.all_reduce(total, group=leased.group)
    return any(connects), float(total)


@pytest.mark.world
def test_nobody_else_connects_to_a_group() -> None:
    assert on_ranks(2, strangers_of_a_new_group) == [(False, 2.0)] * 2
