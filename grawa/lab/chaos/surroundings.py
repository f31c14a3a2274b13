"""What surrounds a job's processes: their environment, and the files that steer and log them."""

import os
import secrets
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from grawa.lab.chaos import clock_hook
from grawa.lab.chaos.hosts import INTERFACE
from grawa.lab.chaos.programs import MARK
from grawa.lab.train import asked
from grawa.launching.shared import without_launchers

_HOOK = """\
# Python runs this file before anything else in a process: see grawa.lab.chaos.clock_hook.
import runpy

runpy.run_path({path!r})
"""

_COLUMNS = "400"
"""So that what a process prints stays in one line."""


class Surroundings:
    """What surrounds the processes of a job.

    Args:
        out: the folder for all files.
        which: the job's name.
        hosts: number of hosts.
    """

    def __init__(self, out: Path, which: str, hosts: int) -> None:
        self._folder, self._hosts = out / "control" / which, hosts
        self.logs = out / "logs" / which
        self.requests = self._folder / "requests"

    @cached_property
    def mark(self) -> str:
        """By which the job's processes are known."""
        return secrets.token_hex(8)

    def make(self) -> None:
        """Makes the folders and files."""
        self.logs.mkdir(parents=True)
        hook = self._folder / "hook"
        hook.mkdir(parents=True)
        text = _HOOK.format(path=clock_hook.__file__)
        (hook / "sitecustomize.py").write_text(text, encoding="utf-8")
        for folder in self.temporary():
            folder.mkdir()
        for host in range(self._hosts):
            clock_hook.put(str(self.clock(host)), 0.0)

    def clock(self, host: int) -> Path:
        """The file that says by how much a host's wall clock is wrong."""
        return self._folder / f"clock-{host}"

    def temporary(self) -> Sequence[Path]:
        """Each host's folder for temporary files."""
        return [self._folder / f"tmp-{host}" for host in range(self._hosts)]

    def environment(self, host: int, *, linked: bool) -> dict[str, str]:
        """The environment of a host's processes.

        Args:
            host: which one.
            linked: whether they reach others over its link.

        Returns:
            Name -> value.
        """
        given = without_launchers()
        paths = [str(self._folder / "hook"), given.get("PYTHONPATH", "")]
        own = {
            MARK: self.mark,
            "COLUMNS": _COLUMNS,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "TMPDIR": str(self.temporary()[host]),
            clock_hook.VARIABLE: str(self.clock(host)),
        }
        if self.requests.exists():
            own[asked.VARIABLE] = str(self.requests)
        if linked:
            own["GLOO_SOCKET_IFNAME"] = INTERFACE
        given.setdefault("OMP_NUM_THREADS", "1")
        return given | own
