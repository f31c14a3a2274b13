"""Hosts with links of a given rate, and processes on them."""

import ctypes
import os
import shutil
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from grawa.errors import UserError
from grawa.lab.chaos.hosts import INTERFACE, Cluster, address
from processes import together

HOSTS = 4
"""As many as benchmarks use if they don't say otherwise."""

BURST = "1mb"
"""Size of the token bucket; smaller ones throttle: at 256 kB, TCP gets only 94% of 100 Mbit/s. A
full one lets so much pass at once: see `drain`."""

BITS = {"1gbit": 1e9, "200mbit": 2e8, "100mbit": 1e8, "20mbit": 2e7}

_PORT = 29_701
"""Port of the first host, in its own network namespace."""


def check_machine() -> None:
    """Checks that hosts can be made on this machine.

    Raises:
        UserError: with what is missing.
    """
    if shutil.which("tc") is None or os.geteuid() != 0:
        why = "root privileges" if shutil.which("tc") else "tc (iproute2)"
        raise UserError(f"hosts are made of network namespaces, which needs {why}")
    with hosts() as cluster:
        shape(cluster, next(iter(BITS)))


def hosts(count: int = HOSTS) -> Cluster:
    """So many hosts, each linked to a bridge; they are gone at the end of the `with` block."""
    return Cluster(count)


def shape(cluster: Cluster, rate: str) -> None:
    """Limits the rate of each host in both directions: at both ends of its link."""
    bucket = ("root", "tbf", "rate", rate, "burst", BURST, "latency", "400ms")
    for host in cluster.hosts:
        host.run("tc", "qdisc", "replace", "dev", INTERFACE, *bucket)
        cluster.run("tc", "qdisc", "replace", "dev", host.port, *bucket)


def run_on(cluster: Cluster, work: Callable[..., None], *args: object, each: int = 1) -> None:
    """Runs `work(rank, *args)` in processes on all hosts at the same time.

    Args:
        cluster: the hosts.
        work: the function.
        args: its other arguments.
        each: processes on each host; ranks are numbered host by host.
    """
    networks = [f"/proc/{host.pid}/ns/net" for host in cluster.hosts]
    together(_on_host, len(networks) * each, networks, each, work, args)


def _on_host(
    rank: int,
    networks: Sequence[str],
    each: int,
    work: Callable[..., None],
    args: Sequence[object],
) -> None:
    _enter(networks[rank // each])
    os.environ["GLOO_SOCKET_IFNAME"] = INTERFACE
    work(rank, *args)


def _enter(network: str) -> None:
    """Lets this process, and those it starts, use a host's network."""
    library = ctypes.CDLL(None, use_errno=True)
    new_network = 0x40000000  # CLONE_NEWNET of setns(2)
    with Path(network).open("rb") as file:
        if library.setns(file.fileno(), new_network):
            raise OSError(ctypes.get_errno(), f"can't enter {network}")


def bytes_sent() -> int:
    """Bytes sent by this host, including headers, as counted by the interface."""
    lines = Path("/proc/self/net/dev").read_text(encoding="ascii").splitlines()
    _, figures = next(line.split(":") for line in lines if line.strip().startswith(f"{INTERFACE}:"))
    received = 8  # columns before those for sending
    return int(figures.split()[received])


def drain() -> None:
    """Empties the token buckets of all links, which fill up in every pause; collective.

    Else what is sent next would pass faster than the rate, and the more so the less it is.
    """
    dist.all_reduce(torch.zeros(2**20 // 4))  # of which each host sends at least as many bytes
    dist.barrier()  # what is counted from now on is sent after it


def join(rank: int, timeout: timedelta, processes: int = HOSTS) -> None:
    """Joins the process group of all processes on all hosts."""
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://{address(0)}:{_PORT}",
        rank=rank,
        world_size=processes,
        timeout=timeout,
    )
