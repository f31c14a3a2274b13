"""The command in this process, with its workers in the tests' world; and as one of its own."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from io import StringIO
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any
from unittest.mock import patch

from grawa.errors import UserError
from grawa.lab.chaos.programs import environment_of
from grawa.lab.cli.main import main
from grawa.lab.cli.process import run_process
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.train import fork_server
from grawa.lab.train.checkpoint import Start
from tests.world import forks, launched, results

ROOT = Path(__file__).parents[3]
PATIENCE_SECONDS = 120.0
"""How long anything may take before it counts as hung."""

_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def environment() -> dict[str, str]:
    """Ours, without what a launcher would set."""
    ours = {name: value for name, value in os.environ.items() if name not in _LAUNCHERS}
    return {**ours, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int | str | None
    out: str
    err: str


def grawa(*args: str | Path) -> Ended:
    """Runs the command in this process, and the workers that it starts in the world."""
    code: int | str | None = None
    with (
        TemporaryFile("w+") as out,
        TemporaryFile("w+") as err,  # a real file: crashes would be told there
        patch.dict(os.environ, COLUMNS="200"),
        patch("grawa.lab.cli.run.launch", _in_world),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main([str(arg) for arg in args])
        except SystemExit as stop:
            code = stop.code
        return Ended(code, *map(_read, (out, err)))


def _read(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def _in_world(command: fork_server.Command, processes: int, **_: object) -> None:
    """Stands in for `grawa.lab.train.launch.launch`."""
    assert command.module == "grawa.lab.cli.worker"
    table, begun = map(json.loads, command.arguments[:2])
    path = Path(begun["path"]).resolve()
    found = launched(processes, _worker, table, path, begun["start"])
    for outcome in found:
        if isinstance(outcome, UserError):
            raise outcome
    print(results(found)[0], end="")


def _worker(table: dict[str, object], path: Path, start: dict[str, Any]) -> str:
    """What `grawa.lab.cli.worker` does; returns what it printed."""
    out = StringIO()
    with redirect_stdout(out):
        run_process(TrainConfig.from_toml(table, Path("command line")), path, Start(**start))
    return out.getvalue()


class Command:
    """A command in a process of its own, which leads a session.

    Args:
        process: its own process.
        output: the file that it prints to.
    """

    def __init__(self, process: ForkServerProcess, output: Path) -> None:
        self.process = process
        self.output = output

    @property
    def pid(self) -> int:
        """The process's number."""
        assert self.process.pid is not None
        return self.process.pid

    def workers(self) -> dict[int, int]:
        """The worker processes that it has started: rank -> process."""
        ranks = {pid: environment_of(pid).get("RANK") for pid in children_of(self.pid)}
        return {int(rank): pid for pid, rank in ranks.items() if rank is not None}

    def wait(self) -> tuple[int, str]:
        """Its exit code and all that it printed."""
        until(lambda: not self.process.is_alive(), "the command's end")
        assert self.process.exitcode is not None
        return self.process.exitcode, self.output.read_text()


@contextmanager
def started(output: Path, *args: str | Path) -> Generator[Command]:
    """A command in a process of its own, forked from one that has done all imports."""
    process = forks().Process(target=_lead, args=(output, [str(arg) for arg in args]))
    process.start()
    command = Command(process, output)
    try:
        yield command
    finally:
        process.kill()
        process.join(PATIENCE_SECONDS)


def _lead(output: Path, args: list[str]) -> None:
    """The process of a command, as a terminal would start it."""
    os.setsid()
    file = os.open(output, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ |= environment()
    sys.argv = ["grawa", *args]
    main(args)


def children_of(pid: int) -> set[int]:
    """The processes that a process has started; none if it is gone."""
    with suppress(OSError):
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return {int(child) for child in text.split()}
    return set()


def is_alive(pid: int) -> bool:
    """Whether a process is there and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Callable[[], bool], what: str) -> None:
    """Waits for something to become true."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {PATIENCE_SECONDS} s still not: {what}")
        time.sleep(0.02)


def all_gone(pids: Sequence[int]) -> None:
    """Waits until none of these processes is there."""
    until(lambda: not any(is_alive(pid) for pid in pids), f"{pids} gone")


@contextmanager
def training(
    out: Path, *args: str, on_start: Callable[[], None] = lambda: None
) -> Generator[Command]:
    """A run of two workers that does not end by itself, once it has made a round."""
    options = ("--workers", "2", "--steps", "2000000", "--max-restarts", "0", "--out", out)
    workers: dict[int, int] = {}
    with started(out.with_name("output"), "train", "quadratic", *options, *args) as command:
        try:
            until((out / "events.jsonl").exists, "the folder")
            until(lambda: sorted(command.workers()) == [0, 1], "the workers")
            workers = command.workers()
            until(lambda: '"round"' in (out / "events.jsonl").read_text(), "a round")
            on_start()
            yield command
        finally:
            for pid in workers.values():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
