"""The command lines of a job: what is started on each host, at first and when it goes on."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from grawa.lab.chaos.hosts import address

_FIRST_PORT = 29_500
"""In a host's own network, so that nobody else has it."""

_OWN = "grawa.lab.chaos.own"


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a job is.

    Attributes:
        hosts: number of hosts.
        workers: of all hosts, a multiple of theirs.
        restarts: how often a launcher starts its workers again by itself.
    """

    hosts: int
    workers: int
    restarts: int = 3


def of_task(size: Size, config: Path, run: Path, seen: Path, host: int, attempt: int) -> list[str]:
    """The command line of a run of the laboratory.

    Args:
        size: of the job.
        config: the run's options.
        run: the run's folder, as its processes see it.
        seen: the same folder, as it is seen from here.
        host: where it is started.
        attempt: how often the job was started before.

    Returns:
        `grawa train` or, if there is something to go on with, `grawa resume`; on several hosts
        under torchrun.
    """
    begun = (seen / "config.toml").exists()
    train = ["train", "--config", str(config), "--out", str(run)]
    words = ["-m", "grawa", *(["resume", str(run)] if begun else train)]
    return [sys.executable, *(_torchrun(size, host, attempt) if size.hosts > 1 else ()), *words]


def of_worker(config: Path, run: Path, address: str) -> list[str]:
    """The command line of an elastic worker, at its first start and at others.

    Args:
        config: the run's options.
        run: the run's folder, as its processes see it.
        address: of its host.

    Returns:
        `grawa train`, which finds the folder if it is there.
    """
    words = ["train", "--config", str(config), "--out", str(run), "--address", address]
    return [sys.executable, "-m", "grawa", *words]


def of_function(
    size: Size, what: str, folder: Path, journal: Path, host: int, attempt: int
) -> list[str]:
    """The command line of a function of the user's own; `grawa.lab.chaos.own` calls it.

    Args:
        size: of the job.
        what: module:function.
        folder: for its checkpoints.
        journal: for its rounds.
        host: where it is started.
        attempt: how often the job was started before.

    Returns:
        The command line, on several hosts under torchrun.
    """
    call = [_OWN, what, str(folder), str(journal)]
    if size.hosts > 1:
        return [sys.executable, *_torchrun(size, host, attempt), "-m", *call]
    return [sys.executable, "-m", f"{_OWN}_launcher", str(size.workers), str(size.restarts), *call]


def _torchrun(size: Size, host: int, attempt: int) -> Sequence[str]:
    """The command line of torchrun on one of several hosts, without the module that it starts."""
    return [
        "-m",
        "torch.distributed.run",
        f"--nnodes={size.hosts}",
        f"--nproc-per-node={size.workers // size.hosts}",
        f"--max-restarts={size.restarts}",
        "--rdzv-backend=c10d",
        f"--rdzv-id=attempt{attempt}",
        f"--rdzv-endpoint={address(0)}:{_FIRST_PORT + attempt % 1000}",
        f"--rdzv-conf=is_host={int(host == 0)}",
        f"--local-addr={address(host)}",
        "--tee=3",
    ]
