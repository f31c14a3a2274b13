"""What is known of a study afterwards, and what a crash may do to it."""

from pathlib import Path

import pytest

from grawa.errors import UserError
from grawa.lab.experiments.study_folder import SCHEMA, StudyFolder
from tests.lab.experiments.studies import result, study
from tests.world import on_ranks, outcomes

LINES = [result("mgrawa", [0.5, 0.25], seed=seed) for seed in range(3)]


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    made = StudyFolder.begin(tmp_path / "studies" / "first", study())
    for line in LINES:
        made.append(line)
    return made


def test_a_study_has_its_question_environment_and_results(folder: StudyFolder) -> None:
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "environment.json",
        "study.toml",
        "trials.jsonl",
    ]
    assert folder.study() == study()
    assert folder.found() == (LINES, 0)
    assert folder.changed_since() == []


@pytest.mark.parametrize("cut", [1, 2, 40, 300])
def test_a_line_that_a_crash_cut_short_is_dropped_and_counted(
    cut: int, folder: StudyFolder
) -> None:
    path = folder.path / "trials.jsonl"
    path.write_bytes(path.read_bytes()[: -1 - cut])
    assert folder.found() == (LINES[:2], 1)
    folder.remove_incomplete_lines()
    assert folder.found() == (LINES[:2], 0)
    folder.append(LINES[2])
    assert folder.found() == (LINES, 0)


def test_a_whole_file_is_not_touched_by_mending(folder: StudyFolder) -> None:
    before = (folder.path / "trials.jsonl").stat().st_mtime_ns
    folder.remove_incomplete_lines()
    assert (folder.path / "trials.jsonl").stat().st_mtime_ns == before


def test_a_broken_line_in_the_middle_costs_that_trial_only(folder: StudyFolder) -> None:
    path = folder.path / "trials.jsonl"
    first, second, third = path.read_text().splitlines()
    path.write_text("\n".join([first, second[:50], third]) + "\n")
    assert folder.found() == ([LINES[0], LINES[2]], 1)


def test_lines_of_another_version_are_refused(folder: StudyFolder) -> None:
    path = folder.path / "trials.jsonl"
    path.write_text(path.read_text().replace(f'"schema": {SCHEMA}', '"schema": 99'))
    with pytest.raises(UserError, match="written by another version"):
        folder.found()


def test_what_is_not_finite_becomes_nothing(folder: StudyFolder) -> None:
    folder.append(result("uniform", [float("nan"), 0.5]))
    assert folder.found().results[-1].curve.error == [None, 0.5]


def test_the_same_study_goes_on_and_another_one_is_refused(folder: StudyFolder) -> None:
    assert StudyFolder.begin(folder.path, study()) == folder
    with pytest.raises(UserError, match="has another study: points differs"):
        StudyFolder.begin(folder.path, study(points=5))
    assert folder.found() == (LINES, 0)


def test_other_folders_are_no_studies(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match=r"is not a study folder: it has no study\.toml"):
        StudyFolder.begin(tmp_path / "mine", study())
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can't make the study folder"):
        StudyFolder.begin(tmp_path / "file" / "study", study())


def lock(folder: StudyFolder) -> None:
    """Runs a study, for a moment."""
    with folder.locked():
        pass


@pytest.mark.world
def test_a_study_is_run_by_one_process_at_a_time(folder: StudyFolder) -> None:
    with folder.locked():
        (refused,) = outcomes(1, lock, folder)
    assert isinstance(refused, UserError)
    assert "is being run by another process" in str(refused)
    assert on_ranks(1, lock, folder) == [None]  # it is free again
