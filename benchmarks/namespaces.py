"""Hosts, made of network namespaces on a bridge, with links of a given rate."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from grawa.errors import UserError
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
    missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        why = f"{' and '.join(missing)} (iproute2)" if missing else "root privileges"
        raise UserError(f"hosts are made of network namespaces, which needs {why}")
    with hosts() as names:
        shape(names, next(iter(BITS)))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{' '.join(command)}: {done.stderr.strip()}")


@contextmanager
def hosts(count: int = HOSTS) -> Generator[list[str]]:
    """Makes so many namespaces, each linked to a bridge in another one; removes them at the end."""
    tag = f"gw{os.getpid() % 10_000}"
    bridge = f"{tag}b"
    with ExitStack() as undo:
        for name in (bridge, *(f"{tag}h{i}" for i in range(count))):
            _run("ip", "netns", "add", name)
            undo.callback(_run, "ip", "netns", "del", name)
        _run("ip", "-n", bridge, "link", "add", "br0", "type", "bridge")
        _run("ip", "-n", bridge, "link", "set", "br0", "up")
        for i in range(count):
            host = f"{tag}h{i}"
            far = f"{tag}p{i}"
            _run("ip", "link", "add", far, "type", "veth", "peer", "name", "eth0", "netns", host)
            _run("ip", "link", "set", far, "netns", bridge)
            _run("ip", "-n", bridge, "link", "set", far, "master", "br0", "up")
            _run("ip", "-n", host, "addr", "add", f"{address(i)}/24", "dev", "eth0")
            _run("ip", "-n", host, "link", "set", "eth0", "up")
            _run("ip", "-n", host, "link", "set", "lo", "up")
        yield [f"{tag}h{i}" for i in range(count)]


def shape(names: list[str], rate: str) -> None:
    """Limits the rate of each host in both directions: at both ends of its link."""
    bridge = names[0][:-2] + "b"
    bucket = ("root", "tbf", "rate", rate, "burst", BURST, "latency", "400ms")
    for i, host in enumerate(names):
        far = host[:-2] + f"p{i}"
        _run("tc", "-n", host, "qdisc", "replace", "dev", "eth0", *bucket)
        _run("tc", "-n", bridge, "qdisc", "replace", "dev", far, *bucket)


def run_on(names: Sequence[str], work: Callable[..., None], *args: object, each: int = 1) -> None:
    """Runs `work(rank, *args)` in processes on all hosts at the same time.

    Args:
        names: of the hosts.
        work: the function.
        args: its other arguments.
        each: processes on each host; ranks are numbered host by host.
    """
    together(_on_host, len(names) * each, names, each, work, args)


def _on_host(
    rank: int,
    names: Sequence[str],
    each: int,
    work: Callable[..., None],
    args: Sequence[object],
) -> None:
    _enter(names[rank // each])
    os.environ["GLOO_SOCKET_IFNAME"] = "eth0"
    work(rank, *args)


def _enter(host: str) -> None:
    """Lets this process, and those it starts, use a host's network."""
    library = ctypes.CDLL(None, use_errno=True)
    new_network = 0x40000000  # CLONE_NEWNET of setns(2)
    with Path("/run/netns", host).open("rb") as network:
        if library.setns(network.fileno(), new_network):
            raise OSError(ctypes.get_errno(), f"can't enter the network of {host}")


def bytes_sent() -> int:
    """Bytes sent by this host, including headers, as counted by the interface."""
    lines = Path("/proc/self/net/dev").read_text(encoding="ascii").splitlines()
    _, figures = next(line.split(":") for line in lines if line.strip().startswith("eth0:"))
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


def address(host: int) -> str:
    """The address of a host's link."""
    return f"10.77.0.{host + 1}"
