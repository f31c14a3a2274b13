"""Processes that are started together: which one failed, and whether all are started again."""

import json
import os
import signal
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from grawa.comm.count_file import CountFile
from grawa.errors import UserError
from grawa.lab.train.failed import WorkerFailedError
from grawa.lab.train.fork_server import Command
from grawa.lab.train.forked import serve
from grawa.lab.train.launch import _first_cause, launch
from grawa.lab.train.start import starter
from grawa.lab.train.stop import STOPS, StoppedError
from tests.lab.cli.processes import all_gone, children_of, is_alive, until
from tests.lab.train import programs
from tests.world import forks

LOST = "CommunicationError: rank 0 lost contact"
CASES: dict[str, tuple[list[str | signal.Signals], tuple[int, str]]] = {
    "an error of its own": ([LOST, "ValueError: x"], (1, "ValueError: x")),
    "killed": ([LOST, signal.SIGKILL], (1, "killed by SIGKILL")),
    "ended by the launcher": ([LOST, signal.SIGTERM], (0, LOST)),
    "ended from outside": ([signal.SIGTERM, signal.SIGTERM], (0, "killed by SIGTERM")),
    "the first of several": ([LOST, "ValueError: x", "ValueError: y"], (1, "ValueError: x")),
}


@pytest.mark.parametrize("case", CASES)
def test_the_cause_is_named_and_not_what_follows_from_it(case: str, tmp_path: Path) -> None:
    ends, expected = CASES[case]
    failures = {}
    for rank, end in enumerate(ends):
        file = tmp_path / f"{rank}.json"
        if isinstance(end, str):
            message = {"message": end, "extraInfo": {"timestamp": 100 + rank}}
            file.write_text(json.dumps({"message": message}))
        code = 1 if isinstance(end, str) else -end
        failures[rank] = ProcessFailure(rank, 1234 + rank, code, str(file))
    assert _first_cause(failures) == expected


def command(name: str, *arguments: str) -> Command:
    """One of the tests' programs."""
    module = "tests.lab.train"
    return Command(f"{module}.programs", [name, *arguments], [f"{module}.imported"])


def run(end: str, times: int, max_restarts: int) -> list[str]:
    """Runs two processes, of which one fails so often; what was said of each restart."""
    said: list[str] = []
    reading, writing = os.pipe()
    before = os.dup(0)
    os.dup2(reading, 0)
    try:
        launch(
            command("failing", end, str(times)),
            2,
            max_restarts=max_restarts,
            on_restart=lambda error, restart: said.append(f"{restart}: {error}"),
        )
    finally:
        os.dup2(before, 0)
        for descriptor in (before, reading, writing):
            os.close(descriptor)
    return said


@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM", "SIGINT", "SIGSEGV"])
def test_all_are_started_again_when_one_is_killed(end: str) -> None:
    number = str(int(signal.Signals[end]))
    expected = f"rank 1 failed: killed by {end}"
    assert run(number, 1, 1) == [f"1: {expected}"]


def test_restarts_come_to_an_end() -> None:
    with pytest.raises(WorkerFailedError, match="rank 1 failed: ValueError: x"):
        run("ValueError: x", 3, 2)
    assert len(run("ValueError: x", 2, 2)) == 2


@pytest.mark.parametrize(
    ("end", "kind"), [("UserError: x", UserError), ("DivergedError: x", WorkerFailedError)]
)
def test_what_comes_again_is_not_tried_again(end: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="x"):
        run(end, 1, 5)


def test_what_the_caller_raises_ends_the_run() -> None:
    def refuse(error: WorkerFailedError, restart: int) -> None:
        raise UserError(f"no checkpoint after: {error}")

    with pytest.raises(UserError, match="no checkpoint after: rank 0 failed: exit code 3"):
        launch(command("exiting", "3"), 1, max_restarts=1, on_restart=refuse)


def test_processes_share_files_and_leave_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in (
        "MASTER_ADDR",
        "MASTER_PORT",
        "GROUP_RANK",
        "WORLD_SIZE",
        "TORCHELASTIC_RUN_ID",
        "TORCHFT_LIGHTHOUSE",
        "REPLICA_GROUP_ID",
    ):
        monkeypatch.setenv(name, "stale")
    launch(command("meeting"), 2)
    assert list(tmp_path.iterdir()) == []


def test_without_files_in_memory_a_private_folder_is_used_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delattr("os.memfd_create")
    with starter(command("meeting"), 2) as several, several.started() as group:
        assert [folder.stat().st_mode & 0o077 for folder in tmp_path.iterdir()] == [0]
        until(group.has_ended, "the end of both")
        assert group.failures() == {}
    assert list(tmp_path.iterdir()) == []


def sleep_in_two() -> None:
    launch(command("sleeping"), 2)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_processes_end_with_the_launcher_from_their_first_moment(number: signal.Signals) -> None:
    launcher = forks().Process(target=sleep_in_two)
    launcher.start()
    assert launcher.pid is not None
    found: set[int] = set()

    def begun() -> bool:
        found.update(children_of(launcher.pid or 0))
        return len(found) >= (1 if number == signal.SIGKILL else 2)

    until(begun, "processes")
    os.kill(launcher.pid, number)
    launcher.join()
    all_gone(list(found))


def test_counts_are_shared_by_descriptions_of_one_file(tmp_path: Path) -> None:
    path = tmp_path / "counts"
    path.touch()
    one, other = CountFile(str(path), "group"), CountFile(str(path), "group")
    elsewhere = CountFile(str(path), "another group")
    assert (one.add("steps", 2), other.add("steps", 3), elsewhere.add("steps", 1)) == (2, 5, 1)
    for generation in range(1000):
        one.add(f"steps/{generation}", 1)
        other.delete_key(f"steps/{generation}")
    assert path.stat().st_size < 100
    assert other.delete_key("steps")
    assert not one.delete_key("steps")
    assert one.add("steps", 4) == 4


def stopping(how: str, number: signal.Signals, within: float = 60.0) -> None:
    """Two processes, of which one sends a signal to the launcher when both are ready."""
    launch(command("stopping", how, str(int(number))), 2, stop_within=within)


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_to_stop_is_passed_on_and_waited_for(number: signal.Signals) -> None:
    with pytest.raises(StoppedError) as stopped:
        stopping("stops", number)
    assert (stopped.value.number, stopped.value.saved) == (number, True)


def test_processes_may_finish_instead() -> None:
    stopping("finishes", signal.SIGTERM)


@pytest.mark.parametrize(
    ("how", "number", "within"),
    [
        ("never", signal.SIGTERM, 0.2),
        ("never", signal.SIGQUIT, 60.0),
        ("again", signal.SIGINT, 60.0),
    ],
)
def test_those_that_go_on_are_ended(how: str, number: signal.Signals, within: float) -> None:
    """After the time, by a signal that is no request, and by a second one."""
    with pytest.raises(StoppedError) as stopped:
        stopping(how, number, within)
    assert (stopped.value.number, stopped.value.saved) == (number, False)


def test_a_process_that_fails_while_it_stops_is_named() -> None:
    with pytest.raises(WorkerFailedError, match="rank 1 failed: exit code 3"):
        stopping("fails", signal.SIGTERM)


def test_processes_are_children_of_the_launcher_and_share_the_imports(
    capfd: pytest.CaptureFixture[str],
) -> None:
    launch(command("sharing_imports"), 2)
    said = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    (server,) = {one["imported_by"] for one in said}
    assert not is_alive(server)
    assert {one["parent"] for one in said} == {os.getpid()} != {server}
    for one in said:
        program, *arguments = one["arguments"]
        assert Path(program) == Path(programs.__file__)
        assert arguments == ["sharing_imports"]
        _, *words = one["shown"]
        assert words == ["-m", programs.__name__, "sharing_imports"]
    assert sorted(one["rank"] for one in said) == ["0", "1"]


def test_if_an_import_has_used_cuda_each_process_does_its_own(
    capfd: pytest.CaptureFixture[str],
) -> None:
    shared = command("sharing_imports")
    launch(replace(shared, imports=[*shared.imports, "tests.lab.train.used_cuda"]), 2)
    said = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [one["imported_by"] for one in said] == [one["process"] for one in said]
    assert {one["parent"] for one in said} == {os.getpid()}
    assert sorted(one["rank"] for one in said) == ["0", "1"]
    assert {tuple(one["arguments"][1:]) for one in said} == {("sharing_imports",)}


def test_without_the_process_that_has_done_the_imports_they_are_done_again() -> None:
    said: list[str] = []
    launch(
        command("without_server"),
        2,
        max_restarts=1,
        on_restart=lambda error, _: said.append(str(error)),
    )
    assert len(said) == 1


def test_imports_that_fail_are_told() -> None:
    with pytest.raises(WorkerFailedError, match="can't start 2 processes: No module named 'there'"):
        launch(Command("nothing", imports=["there.is.none"]), 2)


def test_the_fork_server_says_why_it_can_not_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("os.fork", refuse)
    ours, theirs = socket.socketpair()
    request = {"module": "x", "arguments": [], "imports": [], "variables": {}}
    with ours:
        ours.sendall(json.dumps(request).encode() + b"\n")
        ours.shutdown(socket.SHUT_WR)
        with pytest.raises(SystemExit):
            serve(os.getpid(), theirs)
        assert ours.recv(100) == b"[Errno 11] Resource temporarily unavailable"
