"""How the processes of a run find each other, and open their process group."""

import importlib
import os
import socket
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from ipaddress import ip_address
from threading import Timer

import torch.distributed as dist
from torch._C._distributed_c10d import FileStore, HashStore, Store, TCPStore
from torch.distributed.rendezvous import rendezvous

from grawa.comm.attempt import of_attempt
from grawa.comm.interfaces import face_other_machines, stay_on_this_machine
from grawa.comm.listeners import closed_afterwards
from grawa.comm.pool import check_greetings
from grawa.errors import CommunicationError, UserError

STORE = "GRAWA_STORE"
"""The environment variable by which `grawa train` names the file of its processes' store."""

_ADDRESS = ("MASTER_ADDR", "MASTER_PORT")

_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")

_STORE_SECONDS = 15.0
"""How long a process tries to reach a store that must be there already: that of torchrun's agent,
or of a first process on the same machine, which starts at the same time."""

_LOOK_SECONDS = 0.1
"""Between two attempts to connect."""

_PATIENCE_SECONDS = 10.0
"""After so long, a process that waits for others on other machines says so."""


def launched() -> tuple[int, int] | None:
    """What a launcher has told this process.

    Returns:
        Its rank and the number of processes; `None` if no launcher started it.

    Raises:
        UserError: if RANK and WORLD_SIZE are set to what no launcher sets them to.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    rank, size = number("RANK"), number("WORLD_SIZE")
    if rank >= size:
        raise UserError(f"RANK must be below WORLD_SIZE, got RANK={rank} and WORLD_SIZE={size}")
    return rank, size


def number(name: str) -> int:
    """A launcher's environment variable that must be a number.

    Returns:
        The number; 0 if it is not set.

    Raises:
        UserError: if it is none.
    """
    text = os.environ.get(name, "0")
    if not (text.isascii() and text.isdigit()):
        raise UserError(
            f"the environment variable {name} must be a number, got {text!r}; unset it if no "
            "launcher, such as torchrun, set it for this process"
        )
    return int(text)


def open_group(backend: str, timeout: timedelta) -> None:
    """Opens the default process group of processes that a launcher started; collective.

    Args:
        backend: "gloo" or "nccl".
        timeout: how long to wait for the others, now and in each message.

    Raises:
        CommunicationError: if not all of them connect.
    """
    found = launched()
    assert found is not None, "a launcher started this process"
    rank, size = found
    if STORE in os.environ or size in (1, number("LOCAL_WORLD_SIZE")):
        stay_on_this_machine()
    else:
        face_other_machines(os.environ.get("MASTER_ADDR", ""))
    try:
        store = _store(rank, size, timeout)
        # The first optimizer imports it. If that happens while a group is open, the group never
        # ends, and its threads may end the process by SIGABRT when they meet the interpreter's end.
        importlib.import_module("torch._dynamo")
        with closed_afterwards():
            dist.init_process_group(
                backend, store=store, rank=rank, world_size=size, timeout=timeout
            )
        assert dist.group.WORLD is not None, "it has just been opened"
        check_greetings(dist.group.WORLD, timeout)
    except RuntimeError as error:
        why = str(error).splitlines()[0]
        raise CommunicationError(f"not all processes connected: {why}{_where()}") from error


def _where() -> str:
    """Where a launcher said that the others are, and what to try, for an error's message."""
    if STORE in os.environ:
        return ""
    names = (*_ADDRESS, *_INTERFACES)
    said = (f"{name}={os.environ[name]}" for name in names if name in os.environ)
    return f" ({', '.join(said)}); {_advice()}"


def _advice() -> str:
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return "unset RANK and WORLD_SIZE if no launcher set them for this process"
    return (
        "each process must reach all others at any port: set GLOO_SOCKET_IFNAME, on GPUs "
        "NCCL_SOCKET_IFNAME too, to the network interface that leads to the other machines "
        "(`ip addr` lists them)"
    )


def _store(rank: int, size: int, timeout: timedelta) -> Store:
    """A store that only the processes of this attempt use."""
    if STORE in os.environ:
        return FileStore(os.environ[STORE], -1)
    if size == 1:
        return HashStore()
    for name in _ADDRESS:
        if name not in os.environ:
            raise UserError(
                f"RANK and WORLD_SIZE={size} are set, but not {name}: start all processes with "
                "torchrun, or unset RANK and WORLD_SIZE"
            )
    address, port = os.environ["MASTER_ADDR"], number("MASTER_PORT")
    if not 0 < port < 2**16:
        raise UserError(f"MASTER_PORT must be a port, from 1 to {2**16 - 1}, got {port}")
    soon = min(timeout, timedelta(seconds=_STORE_SECONDS))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        _reach(address, port, soon)
        store = TCPStore(address, port, is_master=False, timeout=soon)
        return of_attempt(store, rank, size, timeout)
    if _is_loopback(address):
        timeout = soon
    with _patiently(rank, size, f"{address}:{port}"):
        if rank > 0:
            _reach(address, port, timeout)
        found: Store = next(iter(rendezvous("env://", rank, size, timeout=timeout)))[0]
        return found


def _reach(address: str, port: int, timeout: timedelta) -> None:
    """Waits until something listens at an address; torch would print a page of frames meanwhile."""
    end = time.monotonic() + timeout.total_seconds()
    while True:
        try:
            socket.create_connection((address, port), timeout.total_seconds()).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise CommunicationError(error.strerror or str(error)) from error
        time.sleep(_LOOK_SECONDS)


def _is_loopback(address: str) -> bool:
    try:
        return address == "localhost" or ip_address(address).is_loopback
    except ValueError:
        return False


@contextmanager
def _patiently(rank: int, size: int, address: str) -> Generator[None]:
    """Says what this process waits for, if it takes long."""
    text = (
        f"grawa: rank {rank} waits for the other {size - 1} processes at {address}, as the "
        "environment says (MASTER_ADDR, WORLD_SIZE); unset RANK and WORLD_SIZE if no launcher set "
        "them"
    )
    timer = Timer(_PATIENCE_SECONDS, lambda: print(text, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
