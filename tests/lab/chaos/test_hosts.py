"""Programs on hosts made of namespaces."""

import os
import signal
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from grawa.lab.chaos.hosts import Cluster, Host, why_no_hosts
from grawa.lab.chaos.programs import Program

pytestmark = pytest.mark.world


@pytest.fixture
def host() -> Generator[Host]:
    if why := why_no_hosts():
        pytest.skip(why)
    with Cluster(1) as cluster:
        yield cluster.hosts[0]


def _started(host: Host, folder: Path, *command: str) -> Program:
    program = host.start(command, os.environ, folder / "program.log")
    _wait_for(lambda: program.pid is not None or program.code is not None)
    return program


def _code(program: Program) -> int | None:
    """With which it has ended."""
    _wait_for(lambda: program.code is not None)
    return program.code


def _wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10.0
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)


def test_a_program_that_is_stopped_and_then_killed_has_ended(host: Host, tmp_path: Path) -> None:
    program = _started(host, tmp_path, "sleep", "60")
    program.signal(signal.SIGSTOP)
    time.sleep(0.2)  # by then a parent that follows has stopped, too
    assert program.code is None
    program.signal(signal.SIGKILL)
    assert _code(program)
    assert program.log.read_text() == "", "only the program itself writes there"


def test_what_a_program_prints_is_in_its_log(host: Host, tmp_path: Path) -> None:
    program = _started(host, tmp_path, "sh", "-c", "echo one; echo other >&2")
    assert _code(program) == 0
    assert program.log.read_text() == "one\nother\n"


def test_a_program_that_is_stopped_and_continued_ends_with_its_own_code(
    host: Host, tmp_path: Path
) -> None:
    program = _started(host, tmp_path, "sh", "-c", "sleep 0.5; exit 3")
    program.signal(signal.SIGSTOP)
    time.sleep(0.2)
    program.signal(signal.SIGCONT)
    assert _code(program) == 3


def test_all_programs_of_a_host_that_is_killed_have_ended(host: Host, tmp_path: Path) -> None:
    program = _started(host, tmp_path, "sleep", "60")
    host.kill()
    assert _code(program)
