"""Elastic workers that are started again one by one."""

import json
import time
from datetime import timedelta
from pathlib import Path

import pytest

from grawa import Elastic, UserError
from grawa.lab.train.failed import WorkerFailedError
from grawa.lab.train.fork_server import Command
from grawa.lab.train.launch_elastic import launch_elastic
from grawa.lab.train.stop import StoppedError

LONELY = "CommunicationError: too few workers"


class Job:
    """Three workers, of whom two must be there.

    Args:
        folder: for what they say.
        max_restarts: of each.
        deaths: so many may be told of before workers come to their end.
    """

    def __init__(self, folder: Path, max_restarts: int = 2, deaths: int = 1) -> None:
        self.begun, self.go, self.deaths = folder / "begun", folder / "go", deaths
        self.max_restarts = max_restarts
        self.told: list[str] = []

    def run(self, **ends: list[str]) -> None:
        """Runs workers, of whom some (w0, w1, w2) end in these ways one after another."""
        by_rank = json.dumps({name.removeprefix("w"): end for name, end in ends.items()})
        elastic = Elastic(min_workers=2, wait=timedelta(seconds=0.2))
        arguments = ["elastic", by_rank, str(self.begun), str(self.go)]
        command = Command("tests.lab.train.programs", arguments)
        launch_elastic(command, 3, elastic, max_restarts=self.max_restarts, tell=self._tell)

    def _tell(self, text: str) -> None:
        self.told.append(text)
        if len(self.told) == self.deaths:
            self.go.touch()


def test_a_worker_that_dies_is_started_again_alone(tmp_path: Path) -> None:
    job = Job(tmp_path, deaths=2)
    job.run(w1=["SIGKILL", "ValueError: x", "0"])
    assert sorted(job.begun.read_text().split()) == ["0.0", "1.0", "1.1", "1.2", "2.0"]
    assert job.told == [
        f"worker 1 failed: {why}; it is started again, and the others go on (restart {n} of 2)"
        for n, why in enumerate(("killed by SIGKILL", "ValueError: x"), 1)
    ]


def test_a_worker_that_stops_with_a_checkpoint_has_left(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.run(w1=["stops"])
    assert job.told == ["worker 1 leaves, with a checkpoint: it got SIGTERM"]
    assert sorted(job.begun.read_text().split()) == ["0.0", "1.0", "2.0"]
    with pytest.raises(StoppedError) as stopped:
        job.run(w0=["stops"], w1=["stops"], w2=["stops"])
    assert stopped.value.saved


def test_without_one_that_died_too_often_the_others_go_on(tmp_path: Path) -> None:
    job = Job(tmp_path, max_restarts=0)
    job.run(w2=["SIGSEGV"])
    (told,) = job.told
    assert told == (
        "worker 2 failed: killed by SIGSEGV; it is not started again: max_restarts is 0"
    )


def test_if_the_system_refuses_a_process_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "nowhere"))
    with pytest.raises(WorkerFailedError, match=r"can't start 3 processes: .*No such file"):
        Job(tmp_path).run()


def test_when_one_has_come_to_the_end_nobody_is_started_again(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.go.touch()
    job.run(w0=["now"], w1=["SIGKILL", "SIGKILL", "SIGKILL", "SIGKILL"])
    assert job.begun.read_text().count("1.") <= 3


@pytest.mark.parametrize("why", ["UserError: no such data", "DivergedError: not finite"])
def test_what_comes_again_ends_the_run(why: str, tmp_path: Path) -> None:
    kind = UserError if why.startswith("UserError") else WorkerFailedError
    with pytest.raises(kind, match=why.partition(": ")[2]):
        Job(tmp_path).run(w1=[why])


def test_who_is_left_alone_ends_by_itself_and_the_cause_is_told(tmp_path: Path) -> None:
    job = Job(tmp_path, max_restarts=0)
    with pytest.raises(WorkerFailedError) as error:
        job.run(w0=[LONELY], w1=["SIGKILL"], w2=["SIGKILL"])
    said = "too few workers are left, since these died and were not started again: worker 1 ("
    assert str(error.value).startswith(said)
    assert "worker 2 (" in str(error.value)
    assert str(error.value).endswith("(killed by SIGKILL); the others waited for 0.2 s")
    assert len(job.told) == 2


def test_workers_that_never_end_though_too_few_are_left_are_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grawa.lab.train.launch_elastic._MARGIN", timedelta(0))
    job = Job(tmp_path, max_restarts=0, deaths=3)
    began = time.monotonic()
    with pytest.raises(WorkerFailedError, match=r"worker 1 \(.*worker 2 \("):
        job.run(w1=["SIGKILL"], w2=["SIGKILL"])
    assert time.monotonic() - began < 60.0
