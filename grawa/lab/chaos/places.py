"""Where a job runs, and what it leaves there."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from grawa.lab.chaos.hosts import Host
from grawa.lab.chaos.programs import Program

_SHARED = Path("/dev/shm")

_OF_TORCH = ("torchelastic_", "torchinductor_")
"""How the folders begin in which torchrun keeps logs, and torch compiled code; they are not ours,
and torch leaves them there."""


class ThisMachine:
    """This machine as it is, for a job on one host without namespaces."""

    def __init__(self) -> None:
        self.is_up = True

    def boot(self) -> None:
        """Does nothing: it is up."""

    def start(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> Program:
        """Starts a program."""
        return Program(command, environment, log)


def left_in_memory(hosts: Sequence[Host], pids: Iterable[int]) -> list[str]:
    """Files in shared memory that a job has left.

    Args:
        hosts: with shared memory of their own, where all files are the job's; if there are none,
            only files with the number of one of its processes in their names are.
        pids: its processes.

    Returns:
        The paths.
    """
    if not hosts:
        own = {str(pid) for pid in pids}
        names = (path.name for path in _SHARED.iterdir()) if _SHARED.is_dir() else ()
        return [f"{_SHARED}/{name}" for name in names if own & set(re.findall(r"[0-9]+", name))]
    return [
        f"{_SHARED}/{path.name} on host {host.index}"
        for host in hosts
        if host.is_up
        for path in (host.root / _SHARED.relative_to("/")).iterdir()
    ]


def left_in_folders(folders: Iterable[Path]) -> list[str]:
    """What a job has left in its temporary folders, but for torch's own."""
    return [
        str(path)
        for folder in folders
        for path in sorted(folder.iterdir())
        if not path.name.startswith(_OF_TORCH)
    ]
