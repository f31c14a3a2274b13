"""Programs of a job: started, found by their mark, and ended by their numbers."""

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from grawa.launching.shared import tied_to

MARK = "GRAWA_CHAOS"
"""The environment variable by whose value all processes of a job are known."""

_LOOK_SECONDS = 0.02


class Program:
    """A program that was started for a job; it ends with this process.

    Args:
        command: the command; if that enters namespaces first, the program is its child.
        environment: its environment.
        log: the file to which what it prints is added.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._enters = command[0] == "nsenter"
        self.log = log
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                preexec_fn=tied_to(os.getpid()),
                start_new_session=True,
            )

    @property
    def pid(self) -> int | None:
        """The program's process, as it is numbered here; `None` if it is not there."""
        if self._process.poll() is not None:
            return None
        if not self._enters:
            return self._process.pid
        return next(iter(children_of(self._process.pid)), None)

    @property
    def code(self) -> int | None:
        """Its exit code, not 0 if a signal has ended it; `None` while it runs."""
        return self._process.poll()

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal, if it is still there."""
        pid = self.pid
        if pid is not None:
            send(pid, number)

    def kill(self) -> None:
        """Ends it by force."""
        self.signal(signal.SIGKILL)
        self._process.kill()
        self._process.wait()


def send(pid: int, number: signal.Signals) -> None:
    """Sends a signal to a process, if it is still there."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and that are still there."""
    with suppress(OSError):
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    return []


def name_of(pid: int) -> str:
    """The name of a process's program; empty if it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def is_alive(pid: int) -> bool:
    """Whether a process is there, and not only its exit code."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def environment_of(pid: int) -> dict[str, str]:
    """The environment with which a process was started; empty if it is gone or another user's."""
    with suppress(OSError):
        pairs = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
        return dict(pair.partition("=")[::2] for pair in pairs)
    return {}


def marked(mark: str) -> set[int]:
    """The processes of the job with this mark."""
    numbers = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return {pid for pid in numbers if environment_of(pid).get(MARK) == mark and is_alive(pid)}


def end_all(pids: Iterable[int], seconds: float = 5.0) -> None:
    """Ends processes by force, and waits until they are gone."""
    left = set(pids)
    for pid in left:
        send(pid, signal.SIGKILL)
    end = time.monotonic() + seconds
    while any(map(is_alive, left)) and time.monotonic() < end:
        time.sleep(_LOOK_SECONDS)
