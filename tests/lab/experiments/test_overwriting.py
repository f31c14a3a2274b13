"""`--overwrite`: only what grawa has made, and has ended, makes room; and it may come back."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from grawa.errors import UserError
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.lock import locked
from grawa.lab.experiments.overwriting import overwriting
from grawa.lab.experiments.run_folder import RunFolder
from grawa.lab.experiments.study_folder import StudyFolder
from tests.lab.experiments.studies import result, study


def made_run(path: Path, end: str = "finished") -> None:
    folder = RunFolder.create(path, TrainConfig(task="digits"))
    line = {"schema": 1, "kind": end, "step": 4, "round": 1, "elapsed": 0.5}
    folder.events_file.write_text(json.dumps(line) + "\n")


def made_study(path: Path, seeds: int = 2) -> None:
    folder = StudyFolder.begin(path, study())
    for seed in range(seeds):
        for arm in folder.study().arms:
            for condition in folder.study().conditions:
                folder.append(result(arm.name, [0.9], seed=seed, condition=condition.name))


def made_chaos(path: Path) -> None:
    path.mkdir()
    (path / "results.json").write_text("{}")
    (path / "logs").mkdir()


@pytest.mark.parametrize("make", [made_run, made_study, made_chaos])
def test_a_finished_folder_makes_room_for_a_new_one(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "it"
    make(path)
    with overwriting(path):
        assert not path.exists()
        path.mkdir()
        (path / "new").touch()
    assert os.listdir(tmp_path) == ["it"]
    assert os.listdir(path) == ["new"]


def test_where_nothing_is_nothing_is_needed(tmp_path: Path) -> None:
    with overwriting(tmp_path / "it"):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("fails", [True, False])
def test_it_comes_back_if_the_new_one_does_not_begin(fails: bool, tmp_path: Path) -> None:
    path = tmp_path / "it"
    made_run(path)
    with suppress(KeyboardInterrupt), overwriting(path):
        if fails:
            raise KeyboardInterrupt
    assert RunFolder.open(path).has_finished()
    assert os.listdir(tmp_path) == ["it"]


@pytest.mark.parametrize("has_begun", [True, False])
def test_a_process_that_was_killed_meanwhile_leaves_one_of_both(
    has_begun: bool, tmp_path: Path
) -> None:
    path = tmp_path / "it"
    made_run(tmp_path / ".it.replaced")
    if has_begun:
        made_run(path, "diverged")
    with overwriting(path):
        pass
    ends = [event["kind"] for event in RunFolder(path).events()]
    assert ends == ["diverged" if has_begun else "finished"]
    assert os.listdir(tmp_path) == ["it"]


def foreign(path: Path) -> None:
    path.mkdir()
    (path / "thesis.tex").touch()


def with_a_file_of_mine(path: Path) -> None:
    made_run(path)
    (path / "notes.txt").touch()


def linked(path: Path) -> None:
    made_run(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "foreign": (foreign, "is not overwritten: it is neither a run nor a study"),
    "empty": (Path.mkdir, "it is neither a run nor a study"),
    "a file": (Path.touch, "it is neither a run nor a study"),
    "a link": (linked, "it is neither a run nor a study"),
    "a file of mine": (with_a_file_of_mine, "grawa did not write notes.txt in it"),
    "a run that can go on": (lambda path: made_run(path, "started"), "`grawa resume` continues it"),
    "a study that can go on": (lambda path: made_study(path, 1), "has not finished, and is not"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_anything_else_is_left_alone(case: str, tmp_path: Path) -> None:
    make, said = REFUSED[case]
    path = tmp_path / "it"
    make(path)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(UserError, match=said), overwriting(path):
        raise AssertionError("this began")
    assert sorted(os.listdir(tmp_path)) == before


def test_a_run_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    made_run(tmp_path / "it")
    with (
        locked(tmp_path / "it"),
        pytest.raises(UserError, match="is being written by process"),
        overwriting(tmp_path / "it"),
    ):
        raise AssertionError("this began")
