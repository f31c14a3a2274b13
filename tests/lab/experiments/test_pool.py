"""Trials whose processes are killed or stopped: run once more, and never waited for in vain."""

import os
import signal
from collections.abc import Sequence
from multiprocessing import active_children
from pathlib import Path

import pytest

from grawa.errors import UserError
from grawa.lab.cli import trials
from grawa.lab.experiments import pool
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.pool import TrialPool
from grawa.lab.experiments.study import Trial
from grawa.lab.experiments.trial import Prepared
from grawa.lab.train.failed import WorkerFailedError
from tests.world import forks

pytestmark = pytest.mark.world


def prepare(config: TrainConfig) -> Prepared:
    """As in a study; but a trial with "data" sends its process the signals that this file holds."""
    if config.data is not None:
        first, *rest = Path(config.data).read_text().split() or [""]
        Path(config.data).write_text(" ".join(rest))
        if first == "error":
            raise UserError("it can't be prepared")
        if first:
            os.kill(os.getpid(), signal.Signals[first])
    return trials.prepare(TrainConfig(task=config.task, steps=config.steps))


def trial(key: str, file: Path | None = None, signals: str = "") -> Trial:
    if file is not None:
        file.write_text(signals)
    config = TrainConfig(task="quadratic", steps=32, data=None if file is None else str(file))
    return Trial(key=key, role="tune", arm="a", setting=0, condition="clean", seed=0, config=config)


def ended(those: Sequence[Trial], jobs: int = 2) -> tuple[list[str], list[str], str]:
    """Keys of the results, what was told, and the error at the end."""
    forks()
    found, told, error = list[str](), list[str](), ""
    try:
        with TrialPool(prepare, jobs, told.append) as running:
            for result in running.run(those):
                found.append(result.key)
    except WorkerFailedError as failed:
        error = str(failed)
    return sorted(found), told, error


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGSEGV"])
def test_a_trial_whose_process_is_killed_is_run_once_more(name: str, tmp_path: Path) -> None:
    those = [trial("one"), trial("killed", tmp_path / "file", name), trial("two"), trial("three")]
    found, told, error = ended(those)
    assert found == ["killed", "one", "three", "two"]
    assert told == [f"killed: its process was killed by {name}; it is run once more"]
    assert error == ""


def test_a_process_that_is_stopped_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(pool, "_SILENT_LOOKS", 40)
    found, told, _ = ended([trial("stopped", tmp_path / "file", "SIGSTOP"), trial("one")])
    assert found == ["one", "stopped"]
    assert "killed by SIGKILL, since it had been stopped" in told[0]


def test_a_trial_that_is_killed_twice_is_named_when_all_others_are_done(tmp_path: Path) -> None:
    killed = trial("killed", tmp_path / "file", "SIGKILL SIGKILL")
    found, _, error = ended([killed, trial("one"), trial("two")], jobs=1)
    assert found == ["one", "two"]
    assert error.startswith("killed: its process was killed by SIGKILL, twice")
    assert error.endswith("the same command continues from there")


def test_an_error_of_a_trial_is_raised_and_no_process_stays(tmp_path: Path) -> None:
    forks()
    before = set(active_children())
    with pytest.raises(UserError, match="it can't be prepared"):
        ended([trial("bad", tmp_path / "file", "error"), trial("one")])
    assert set(active_children()) <= before
