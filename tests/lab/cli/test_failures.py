"""Real processes that fail: the others end too, and the user learns which one it was."""

import os
import signal
import socket
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from subprocess import PIPE, Popen

import pytest

from grawa.checkpoints.places import round_of
from grawa.errors import CommunicationError, UserError
from grawa.lab.cli.process import run_process
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.run_folder import RunFolder
from tests.lab.cli.processes import all_gone, environment, grawa, started, training, until
from tests.world import launched

pytestmark = pytest.mark.world


def only_line(output: str) -> str:
    """What the command says about its end, in one line."""
    lines = [line for line in output.splitlines() if line.startswith("grawa: ")]
    assert len(lines) == 1, output
    return lines[0]


def test_when_a_worker_is_killed_all_end_and_it_is_named(tmp_path: Path) -> None:
    with training(tmp_path / "run", "--checkpoint-every", "10") as command:
        workers = command.workers()
        os.kill(workers[1], signal.SIGKILL)
        code, output = command.wait()
        assert code == 1
        assert "rank 1" in only_line(output)
        assert "SIGKILL" in only_line(output)
        all_gone(list(workers.values()))
    # What is left can be read, and gone on with.
    folder = RunFolder.open(tmp_path / "run")
    assert folder.events()[0]["kind"] == "started"
    assert not (folder.path / "model.safetensors").exists()
    for path in folder.saved():
        assert round_of(path) % 10 == 0
        assert len(list(path.iterdir())) == 2 * (2 + 2 + 1 + 1)  # with their checksums


def test_a_run_whose_worker_is_killed_starts_again_and_ends_as_if_it_had_not(
    tmp_path: Path,
) -> None:
    options = ("train", "quadratic", "--workers", "2", "--steps", "9600", "--checkpoint-every", "9")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert grawa(*options, "--out", whole).code == 0
    with started(tmp_path / "output", *options, "--out", killed) as command:
        until(lambda: bool(RunFolder(killed).saved()), "a checkpoint")
        workers = command.workers()
        os.kill(workers[1], signal.SIGKILL)
        all_gone(list(workers.values()))
        code, output = command.wait()
    assert code == 0, output
    said = "rank 1 failed: killed by SIGKILL: starting again from the checkpoint save-"
    (line,) = [line for line in output.splitlines() if line.startswith(said)]
    assert line.endswith("(restart 1 of 3)")
    models = [(out / "model.safetensors").read_bytes() for out in (whole, killed)]
    assert models[0] == models[1]
    rounds = [event["round"] for event in RunFolder(killed).events() if event["kind"] == "round"]
    assert rounds == list(range(1, 301))


def test_when_a_worker_is_stopped_the_timeout_ends_all(tmp_path: Path) -> None:
    with training(tmp_path / "run", "--timeout", "3") as command:
        workers = command.workers()
        os.kill(workers[1], signal.SIGSTOP)
        code, output = command.wait()
        assert code == 1
        assert "lost contact" in only_line(output)
        all_gone(list(workers.values()))


def test_if_no_checkpoint_can_be_written_all_end_and_it_is_said_what_is_safe(
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    in_the_way = out / "checkpoints"
    with training(out, "--checkpoint-every", "500", on_start=in_the_way.touch) as command:
        workers = command.workers()
        code, output = command.wait()
        assert code == 2
        assert f"no checkpoint can be saved in {in_the_way}: " in only_line(output)
        assert f"`grawa resume {out}` continues the run" in only_line(output)
        all_gone(list(workers.values()))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_gets_sigterm_saves_a_checkpoint_and_goes_on_from_it(
    processes: int, tmp_path: Path
) -> None:
    steps = ("--workers", "2", "--processes", str(processes), "--steps", "6400")
    options = ("train", "quadratic", *steps, "--stack-workers", "off", "--checkpoint-every", "0")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert grawa(*options, "--out", whole).code == 0
    with started(tmp_path / "output", *options, "--out", stopped) as command:
        until((stopped / "events.jsonl").exists, "the folder")
        until(lambda: '"kind": "round"' in (stopped / "events.jsonl").read_text(), "a round")
        os.kill(command.pid, signal.SIGTERM)
        code, output = command.wait()
    assert (code, "Traceback" in output) == (143, False), output
    (saved,) = RunFolder(stopped).saved()
    assert only_line(output) == (
        f"grawa: stopped by SIGTERM after round {round_of(saved)}; its checkpoint is saved: "
        f"`grawa resume {stopped}` continues"
    )
    assert not RunFolder(stopped).has_finished()
    assert grawa("resume", stopped).code == 0
    models = [(out / "model.safetensors").read_bytes() for out in (whole, stopped)]
    assert models[0] == models[1]
    rounds = [event["round"] for event in RunFolder(stopped).events() if event["kind"] == "round"]
    assert rounds == list(range(1, 201))


@pytest.mark.parametrize("to", ["the command", "everyone in the terminal"])
def test_an_interrupt_stops_all(to: str, tmp_path: Path) -> None:
    with training(tmp_path / "run") as command:
        workers = command.workers()
        (os.kill if to == "the command" else os.killpg)(command.pid, signal.SIGINT)
        code, output = command.wait()
        assert (code, "Traceback" in output) == (130, False), output
        assert "stopped by SIGINT after round" in only_line(output)
        all_gone(list(workers.values()))


def test_an_interrupt_during_the_imports_is_one_line(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "grawa", "train", "quadratic"]
    with Popen(
        words, env=environment(), cwd=tmp_path, stdout=PIPE, stderr=PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"starting 4 workers...\n"
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate()
    assert (process.returncode, errors) == (130, b"grawa: interrupted; nothing was begun\n")
    assert os.listdir(tmp_path) == []


def test_an_interrupt_while_the_workers_are_being_started_ends_at_once(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ("--workers", "2", "--out", out)
    with started(tmp_path / "output", "train", "quadratic", *options) as command:
        until(out.exists, "the folder")
        os.killpg(command.pid, signal.SIGINT)
        code, output = command.wait()
    assert (code, "Traceback" in output) == (130, False), output
    assert only_line(output) == ("grawa: ended by SIGINT before the run began: nothing was written")
    assert not out.exists()


def test_if_no_round_comes_in_time_all_end_and_the_last_checkpoint_is_named(
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    options = ("--sync-every", "2000", "--checkpoint-every", "1", "--stop-within", "0")
    with training(out, *options) as command:
        workers = command.workers()
        until(lambda: bool(RunFolder(out).saved()), "a checkpoint")
        os.kill(command.pid, signal.SIGTERM)
        code, output = command.wait()
        assert code == 143, output
        assert "ended by SIGTERM; the last checkpoint is that of round " in only_line(output)
        assert f"`grawa resume {out}` continues" in only_line(output)
        all_gone(list(workers.values()))


def test_workers_end_by_themselves_when_the_command_is_killed(tmp_path: Path) -> None:
    with training(tmp_path / "run") as command:
        workers = command.workers()
        os.kill(command.pid, signal.SIGKILL)
        all_gone(list(workers.values()))


def listening(pids: list[int]) -> list[tuple[str, int]]:
    """Where processes listen: address as the kernel writes it, and port."""
    sockets = set()
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            sockets.add(str(entry.readlink()).removeprefix("socket:[").removesuffix("]"))
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in sockets:
                address, _, port = words[1].partition(":")
                found.append((address, int(port, 16)))
    return found


def test_no_stranger_gets_in(tmp_path: Path) -> None:
    with training(tmp_path / "run") as command:
        places = listening([command.pid, *command.workers().values()])
        assert places
        for address, port in places:
            assert address in ("0100007F", "0" * 24 + "01000000")
            with pytest.raises(TimeoutError):
                socket.create_connection(("127.0.0.1", port), timeout=0.1)
        rounds = (tmp_path / "run" / "events.jsonl").read_text().count('"round"')
        until(
            lambda: (tmp_path / "run" / "events.jsonl").read_text().count('"round"') > rounds,
            "another round",
        )


def test_an_interrupt_of_one_worker_alone_stops_all(tmp_path: Path) -> None:
    with training(tmp_path / "run") as command:
        workers = command.workers()
        os.kill(workers[1], signal.SIGINT)
        code, output = command.wait()
        assert code == 130
        assert "stopped by SIGINT after round" in only_line(output)
        all_gone(list(workers.values()))


def trained(table: dict[str, object], path: Path) -> None:
    """One process of a run."""
    with redirect_stdout(StringIO()):
        run_process(TrainConfig.from_toml(table, path), path)


def test_no_process_succeeds_if_the_first_one_cannot_save_the_model(tmp_path: Path) -> None:
    """Else torchrun on another host would not start its processes again, and all would hang."""
    config = TrainConfig(task="quadratic", workers=2, processes=2, steps=64)
    folder = RunFolder.create(tmp_path / "run", config)
    (folder.path / "model.safetensors").mkdir()
    first, other = launched(2, trained, config.as_toml(), folder.path)
    assert isinstance(first, UserError)
    assert "can't be written" in str(first)
    assert isinstance(other, CommunicationError)
