"""Who writes the events of a run, if its workers come and go."""

import fcntl
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from grawa import CommunicationError, DivergedError, RoundReport
from grawa.lab.cli.journal import SharedJournal
from grawa.lab.experiments.run_folder import RunFolder
from grawa.lab.train.events import Joined, Started, Trained
from grawa.rounds.attendance import ABSENT, HAS_COME

WORKERS = 3
STARTED = Started(
    step=0,
    round=0,
    recorded=0,
    passed_over=(),
    resized="",
    workers=WORKERS,
    processes=WORKERS,
    arrangement="",
    parameters=1,
    tensors=(),
    steps=100,
    device="cpu",
    faults=(),
    stacked=False,
    stacking="",
)


def report(number: int, *absent: int, come: int | None = None) -> RoundReport:
    left_out = {**dict.fromkeys(absent, ABSENT), **({} if come is None else {come: HAS_COME})}
    return RoundReport(
        round=number,
        fragment=0,
        step=4 * number,
        weights=None,
        scores=None,
        losses=torch.zeros(WORKERS),
        steps_made=torch.ones(WORKERS),
        consensus_distance=None,
        left_out=left_out,
        bytes_sent=0,
        elapsed=0.0,
        compute_seconds=0.0,
        wait_seconds=0.0,
        round_seconds=0.0,
        exposed_seconds=0.0,
    )


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    (tmp_path / "events.jsonl").touch()
    return RunFolder(tmp_path)


def journals(folder: RunFolder, job: str, round_number: int = 0) -> list[SharedJournal]:
    """Of workers that begin a job together."""
    found = [SharedJournal(folder, worker, 0.2) for worker in range(WORKERS)]
    for worker, journal in enumerate(found):
        journal.begin(STARTED)
        journal.joined(joined(worker, job, round_number))
    return found


def joined(worker: int, job: str, round_number: int = 0, *, late: bool = False) -> Joined:
    return Joined(worker=worker, job=job, late=late, step=4 * round_number, round=round_number)


def rounds(folder: RunFolder) -> list[int]:
    return [event["round"] for event in folder.events() if event["kind"] == "round"]


def test_a_round_is_there_once_and_the_first_of_those_there_writes_it(folder: RunFolder) -> None:
    those = journals(folder, "a")
    for number, absent in ((1, ()), (2, (0,)), (3, (0, 1)), (4, (1,))):
        for worker in reversed(range(WORKERS)):
            if worker not in absent:
                those[worker].round(report(number, *absent))
                written = rounds(folder)[-1:] == [number]
                assert written == (worker == min({0, 1, 2} - set(absent)))
    assert rounds(folder) == [1, 2, 3, 4]


def test_rounds_whose_writer_died_are_written_by_the_next_one(folder: RunFolder) -> None:
    those = journals(folder, "a")
    for number in (1, 2):  # worker 0 has died before it wrote them
        for journal in those[1:]:
            journal.round(report(number))
    those[1].round(report(3, 0))
    assert rounds(folder) == [1, 2, 3]
    back = SharedJournal(folder, 0, 0.2)
    back.begin(STARTED)
    back.round(report(2))  # of its checkpoint
    back.joined(joined(0, "a", 3, late=True))
    for journal in (back, *those[1:]):
        journal.round(report(4))
    assert rounds(folder) == [1, 2, 3, 4]


@pytest.mark.parametrize("slow", [False, True])
def test_rounds_whose_writer_died_are_not_lost_if_it_is_back_at_once(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, slow: bool
) -> None:
    monkeypatch.setattr("grawa.lab.cli.journal._TURN_SECONDS", 0.1)
    those = journals(folder, "a")
    for journal in those:
        journal.round(report(1))
    for journal in those[1:]:  # worker 0 has died before it wrote it
        journal.round(report(2))
    back = SharedJournal(folder, 0, 0.2)
    back.begin(STARTED)
    back.joined(joined(0, "a", 2, late=True))
    back.round(report(3, come=0))
    with (folder.path / ".events.lock").open() as other:
        if slow:
            fcntl.flock(other, fcntl.LOCK_EX)
        for journal in those[1:]:
            journal.round(report(3, come=0))
    for journal in (back, *those[1:]):
        journal.round(report(4))
    back.round(report(5))
    assert rounds(folder) == [1, 2, 3, 4, 5]


def test_rounds_that_nobody_knows_are_not_waited_for_for_ever(folder: RunFolder) -> None:
    those = journals(folder, "a")
    those[0].round(report(1))
    for number in range(3, 30):
        those[0].round(report(number))
    assert rounds(folder) == [1, *range(3, 30)]


def test_a_line_that_a_writer_left_incomplete_is_removed(folder: RunFolder) -> None:
    those = journals(folder, "a")
    those[0].round(report(1))
    with folder.events_file.open("a") as file:
        file.write('{"kind": "round", "round": 2')
    for number in (1, 2):
        those[1].round(report(number, 0))
    assert rounds(folder) == [1, 2]
    assert folder.read_events()[1] == []


def test_lines_that_somebody_has_damaged_stop_nobody(folder: RunFolder) -> None:
    those = journals(folder, "a")
    those[0].round(report(1))
    with folder.events_file.open("a") as file:
        file.write('{"kind": "round"}\n[3]\nnot JSON\n' + "[" * 100_000 + "\n")
    for number in (2, 3):
        those[0].round(report(number))
    assert [event.get("round") for event in folder.events() if event["kind"] == "round"] == [
        *(1, None, 2, 3),
    ]


def test_a_job_that_goes_on_from_a_checkpoint_forgets_the_rounds_after_it(
    folder: RunFolder,
) -> None:
    old = journals(folder, "b")  # names need not be in order: clocks may be set back
    for number in (1, 2, 3, 4):
        old[0].round(report(number))
    new = journals(folder, "a", 2)
    assert rounds(folder) == [1, 2]
    new[0].round(report(2))  # of its checkpoint
    new[0].round(report(3))
    old[0].round(report(5))  # it was stopped when the others were started again
    old[1].joined(joined(1, "b", 5, late=True))
    assert rounds(folder) == [1, 2, 3]
    jobs = [event["job"] for event in folder.events() if event["kind"] == "started"]
    assert jobs == [*"bbb", *"aaa"]


def test_if_the_model_is_not_finite_no_worker_succeeds_and_the_run_can_go_on(
    folder: RunFolder,
) -> None:
    those = journals(folder, "a")
    those[0].round(report(1))
    trained = Trained(consensus={"weight": torch.full((1,), torch.nan)})
    assert those[0].save(trained)
    those[0].add("diverged", {"step": 4, "round": 1, "elapsed": 0.5})
    those[0].close()
    with pytest.raises(DivergedError, match="the final model is not finite"):
        those[1].save(trained)
    those[1].close()
    again = journals(folder, "b", 1)
    again[0].round(report(2))
    assert rounds(folder) == [1, 2]
    assert "diverged" not in [event["kind"] for event in folder.events()]


def test_who_waits_for_its_turn_goes_on_and_writes_later(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grawa.lab.cli.journal._TURN_SECONDS", 0.1)
    those = journals(folder, "a")
    trained = Trained(consensus={"weight": torch.ones(1)})
    with (folder.path / ".events.lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        those[0].round(report(1))
        assert rounds(folder) == []
        with pytest.raises(CommunicationError, match=r"has not done it within 0.2 s"):
            those[0].save(trained)
        with pytest.raises(CommunicationError, match="another worker has written to it"):
            those[1].joined(joined(1, "a"))
    those[0].round(report(2))
    assert rounds(folder) == [1, 2]


def test_the_first_to_come_to_the_end_writes_it_and_what_was_missing(folder: RunFolder) -> None:
    those = journals(folder, "a")
    for journal in those[1:]:
        journal.round(report(1))
    trained = Trained(consensus={"weight": torch.ones(1)})
    assert those[2].save(trained)
    assert rounds(folder) == [1]
    with pytest.raises(CommunicationError, match="may be stopped"):
        those[1].save(trained)  # while it measures
    those[2].close()  # it has died
    assert those[1].save(trained)
    those[1].add("finished", asdict(joined(1, "a", 1)))
    those[1].close()
    assert not those[0].save(trained)
    those[0].round(report(2))
    assert folder.events()[-1]["kind"] == "finished"
    assert torch.equal(folder.load_model()["weight"], torch.ones(1))
