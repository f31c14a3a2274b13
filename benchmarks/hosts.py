"""Four hosts, made of network namespaces on a bridge, with links of a given rate."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from itertools import count
from typing import Any

import torch.distributed as dist

HOSTS = 4
BURST = "1mb"
"""Of the token bucket; smaller ones throttle: at 256 kB TCP gets but 94% of 100 Mbit/s."""

BITS = {"1gbit": 1e9, "100mbit": 1e8, "20mbit": 2e7}

SETUP_FAILED = 2

PORTS = count(29_701)
"""A new one for each run on the hosts."""


def check_machine() -> None:
    """Ends the program where hosts can't be made here, and says why."""
    missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        why = f"{' and '.join(missing)} (iproute2)" if missing else "root's rights"
        print(
            f"{sys.argv[0]} needs {why} to make hosts of network namespaces; nothing was measured",
            file=sys.stderr,
        )
        sys.exit(SETUP_FAILED)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{' '.join(command)}: {done.stderr.strip()}", file=sys.stderr)
        sys.exit(SETUP_FAILED)


@contextmanager
def hosts() -> Generator[list[str]]:
    """Four namespaces, each with a link to a bridge in one of its own; gone at the end."""
    tag = f"gw{os.getpid() % 10_000}"
    bridge = f"{tag}b"
    with ExitStack() as undo:
        for name in (bridge, *(f"{tag}h{i}" for i in range(HOSTS))):
            _run("ip", "netns", "add", name)
            undo.callback(_run, "ip", "netns", "del", name)
        _run("ip", "-n", bridge, "link", "add", "br0", "type", "bridge")
        _run("ip", "-n", bridge, "link", "set", "br0", "up")
        for i in range(HOSTS):
            host = f"{tag}h{i}"
            far = f"{tag}p{i}"
            _run("ip", "link", "add", far, "type", "veth", "peer", "name", "eth0", "netns", host)
            _run("ip", "link", "set", far, "netns", bridge)
            _run("ip", "-n", bridge, "link", "set", far, "master", "br0", "up")
            _run("ip", "-n", host, "addr", "add", f"{_address(i)}/24", "dev", "eth0")
            _run("ip", "-n", host, "link", "set", "eth0", "up")
            _run("ip", "-n", host, "link", "set", "lo", "up")
        yield [f"{tag}h{i}" for i in range(HOSTS)]


def shape(names: list[str], rate: str) -> None:
    """Limits what a host sends at its own end, and what it receives at the bridge's."""
    bridge = names[0][:-2] + "b"
    bucket = ("root", "tbf", "rate", rate, "burst", BURST, "latency", "400ms")
    for i, host in enumerate(names):
        far = host[:-2] + f"p{i}"
        _run("tc", "-n", host, "qdisc", "replace", "dev", "eth0", *bucket)
        _run("tc", "-n", bridge, "qdisc", "replace", "dev", far, *bucket)


def run_on(names: Sequence[str], program: str, task: dict[str, Any]) -> str | None:
    """Runs a program with a task and a rank on each host, all at once.

    Args:
        names: of the hosts.
        program: a Python file; its arguments are the task as JSON, and the rank.
        task: what to do.

    Returns:
        What the first one that failed printed, if one did.
    """
    processes = [
        subprocess.Popen(
            [
                *("ip", "netns", "exec", name, sys.executable, program),
                json.dumps(task),
                str(rank),
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "eth0"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, name in enumerate(names)
    ]
    errors = [process.communicate()[1] for process in processes]
    failed = (e for p, e in zip(processes, errors, strict=True) if p.returncode)
    return next(failed, None)


def join(port: int, rank: int, timeout: timedelta) -> None:
    """Starts the process group of all hosts, on one of them."""
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://{_address(0)}:{port}",
        rank=rank,
        world_size=HOSTS,
        timeout=timeout,
    )


def _address(host: int) -> str:
    return f"10.77.0.{host + 1}"
