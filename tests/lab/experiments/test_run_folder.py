"""What is known of a run afterwards, and what a crash may do to it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest
import torch

from grawa.errors import UserError
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.lock import check_free, locked
from grawa.lab.experiments.run_folder import RunFolder

CONFIG = TrainConfig(task="digits", fault=("nan:1@5",))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "runs" / "first", CONFIG)


def test_a_new_folder_has_its_configuration_and_environment(folder: RunFolder) -> None:
    assert RunFolder.open(folder.path).config() == CONFIG.as_saved()
    environment = json.loads((folder.path / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__
    assert environment["python"].startswith("3.")
    assert {"command", "time", "git", "platform"} <= set(environment)
    assert folder.events() == []
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "config.toml",
        "environment.json",
        "events.jsonl",
    ]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_nothing_is_overwritten(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "there"
    if kind == "folder":
        path.mkdir()
    else:
        path.write_text("mine")
    with pytest.raises(UserError, match="exists already, and nothing is overwritten"):
        RunFolder.create(path, CONFIG)
    assert path.is_dir() == (kind == "folder")


def test_a_folder_that_can_not_be_made_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"can't make the run folder .*: Not a directory"):
        RunFolder.create(tmp_path / "file" / "run", CONFIG)


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_other_folders_are_no_runs(make: "type[Path]", tmp_path: Path) -> None:
    path = tmp_path / "other"
    make(path)
    with pytest.raises(UserError, match=r"is not a run folder: it has no config\.toml"):
        RunFolder.open(path)


@pytest.mark.parametrize("text", [b"workers = ", b"\xff\xfe", b"task = 'digits'\nno = 1\n", b""])
def test_a_broken_configuration_is_a_user_error(text: bytes, folder: RunFolder) -> None:
    (folder.path / "config.toml").write_bytes(text)
    with pytest.raises(UserError, match=r"config\.toml"):
        folder.config()


STEPS = (4, 8, 12)
EVENTS: list[tuple[str, dict[str, Any]]] = [
    ("round", {"step": step, "round": step // 4, "loss": 1 / step, "left_out": {}})
    for step in STEPS
]


def test_events_come_back_in_order(folder: RunFolder) -> None:
    for kind, event in EVENTS:
        folder.append(kind, event)
    expected = [{"schema": 1, "kind": kind, **event} for kind, event in EVENTS]
    assert folder.events() == expected
    assert len((folder.path / "events.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_line_that_a_crash_cut_short_is_left_out(cut: int, folder: RunFolder) -> None:
    for kind, event in EVENTS:
        folder.append(kind, event)
    path = folder.path / "events.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert [event["step"] for event in folder.events()] == [4, 8]
    assert folder.read_events()[1] == ["1 lines of events.jsonl are incomplete and were ignored."]


def test_a_line_cut_in_the_middle_of_the_file_is_left_out(folder: RunFolder) -> None:
    for kind, event in EVENTS:
        folder.append(kind, event)
    path = folder.path / "events.jsonl"
    first, second, third = path.read_text().splitlines()
    path.write_text("\n".join([first, second[:20], third, ""]))
    assert [event["step"] for event in folder.events()] == [4, 12]


def test_a_run_without_events_is_a_user_error(folder: RunFolder) -> None:
    (folder.path / "events.jsonl").unlink()
    with pytest.raises(UserError, match=r"has no events\.jsonl"):
        folder.events()


def test_what_came_after_a_checkpoint_can_be_forgotten(folder: RunFolder) -> None:
    folder.append("started", {"step": 0, "round": 0})
    for kind, event in EVENTS:
        folder.append(kind, event)
    path = folder.path / "events.jsonl"
    path.write_bytes(path.read_bytes()[:-7])
    assert folder.forget_after(2) == ["1 lines of events.jsonl are incomplete and were ignored."]
    assert [event["step"] for event in folder.events()] == [0, 4, 8]
    folder.append(*EVENTS[2])
    assert [event["step"] for event in folder.events()] == [0, 4, 8, 12]


def test_lines_are_standard_json(folder: RunFolder) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.append("round", {"loss": float("nan")})
    assert folder.events() == []


def test_a_model_comes_back_bit_for_bit(folder: RunFolder) -> None:
    model = {
        "weight": torch.randn(3, 5),
        "turned": torch.randn(3, 5, dtype=torch.float64).t(),
        "scalar": torch.tensor(7),
        "half": torch.randn(4).bfloat16(),
        "not finite": torch.tensor([float("nan"), float("inf")]),
        "empty": torch.zeros(0, 3),
    }
    folder.save_model(model)
    loaded = folder.load_model()
    assert loaded.keys() == model.keys()
    for name, value in model.items():
        assert loaded[name].dtype == value.dtype
        assert torch.equal(loaded[name].nan_to_num(9.0), value.nan_to_num(9.0))


def test_a_model_can_be_read_by_whom_the_other_files_can(folder: RunFolder) -> None:
    folder.save_model({"weight": torch.zeros(1)})
    modes = {path.stat().st_mode for path in folder.path.iterdir() if path.suffix != ".lock"}
    assert len(modes) == 1


def test_a_model_that_is_not_there_is_a_user_error(folder: RunFolder) -> None:
    with pytest.raises(UserError, match="is missing: the run has not finished; see `grawa resume`"):
        folder.load_model()


@pytest.mark.parametrize("kept", [0, 4, 60, -1])
def test_a_truncated_model_is_a_user_error(kept: int, folder: RunFolder) -> None:
    folder.save_model({"weight": torch.randn(3, 5)})
    path = folder.path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match="is not a complete safetensors file"):
        folder.load_model()


def test_two_runs_by_default_names_have_two_folders(tmp_path: Path) -> None:
    names = [RunFolder.create_one(tmp_path / "run", CONFIG).path.name for _ in range(3)]
    assert names == ["run", "run-2", "run-3"]


def test_of_two_that_want_the_same_folder_one_gets_it(tmp_path: Path) -> None:
    barrier = Barrier(8)
    outcomes: list[RunFolder | UserError] = []

    def want() -> None:
        barrier.wait()
        try:
            outcomes.append(RunFolder.create(tmp_path / "run", CONFIG))
        except UserError as error:
            outcomes.append(error)

    threads = [Thread(target=want) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(outcome, RunFolder) for outcome in outcomes) == 1
    assert (tmp_path / "run" / "events.jsonl").exists()


def test_a_run_that_has_not_started_leaves_nothing(folder: RunFolder) -> None:
    folder.remove_if_unused()
    assert not folder.path.exists()


def test_a_run_that_has_started_stays(folder: RunFolder) -> None:
    folder.append("started", {"step": 0, "round": 0})
    folder.remove_if_unused()
    assert [event["kind"] for event in folder.events()] == ["started"]


def test_a_name_that_is_too_long_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"can't make the run folder .*: File name too long"):
        RunFolder.create(tmp_path / ("x" * 300), CONFIG)


def test_a_folder_is_locked_against_others_as_long_as_its_holder_lives(tmp_path: Path) -> None:
    hold = (
        "import sys, pathlib\n"
        "from grawa.lab.experiments.lock import locked\n"
        "with locked(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", hold, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=f"is being written by process {holder.pid} on "):
            check_free(tmp_path)
        holder.kill()
    check_free(tmp_path)
    with locked(tmp_path), pytest.raises(UserError, match=f"process {os.getpid()} on"):
        check_free(tmp_path)
    check_free(tmp_path)
