"""The command as a real process, and the workers that it starts."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[3]
PATIENCE_SECONDS = 120.0
_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def environment() -> dict[str, str]:
    """Ours, without what a launcher would set."""
    ours = {name: value for name, value in os.environ.items() if name not in _LAUNCHERS}
    return {**ours, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def grawa(*args: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "grawa", *map(str, args)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


class Command:
    """A command that is running.

    Args:
        process: its own process.
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def workers(self) -> dict[int, int]:
        """The worker processes that it has started: rank -> process."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and _parent(entry) == self.process.pid:
                with suppress(OSError, KeyError):
                    if b"grawa.lab.cli.worker" in (entry / "cmdline").read_bytes():
                        found[int(_environment(entry)["RANK"])] = int(entry.name)
        return found

    def wait(self, seconds: float) -> tuple[int, str]:
        """Its exit code and all that it printed; fails if it takes longer."""
        output, _ = self.process.communicate(timeout=seconds)
        return self.process.returncode, output


def _parent(entry: Path) -> int:
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return -1


def _environment(entry: Path) -> dict[str, str]:
    pairs = (entry / "environ").read_text().split("\0")
    return dict(pair.partition("=")[::2] for pair in pairs)


def is_alive(pid: int) -> bool:
    """Whether a process is there and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Waits for something to become true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds} s still not: {what}")
        time.sleep(0.05)


def all_gone(pids: list[int], seconds: float) -> None:
    """Waits until none of these processes is there."""
    until(lambda: not any(is_alive(pid) for pid in pids), seconds, f"{pids} gone")


@contextmanager
def training(
    out: Path, *args: str, workers: int = 3, on_start: Callable[[], None] = lambda: None
) -> Generator[Command]:
    """A run that does not end by itself, once it has made a round."""
    command = ["train", "quadratic", "--steps", "2000000", "--out", str(out), *args]
    process = subprocess.Popen(
        [sys.executable, "-m", "grawa", *command, "--workers", str(workers)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    running = Command(process)
    started: dict[int, int] = {}
    try:
        until(lambda: (out / "events.jsonl").exists(), PATIENCE_SECONDS, "started")
        on_start()
        started = running.workers()
        assert sorted(started) == list(range(workers))
        until(lambda: '"round"' in (out / "events.jsonl").read_text(), PATIENCE_SECONDS, "a round")
        yield running
    finally:
        for pid in [process.pid, *started.values()]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()
