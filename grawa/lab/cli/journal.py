"""Who writes what happens in a run to its folder: one process, or elastic workers in turn."""

import fcntl
import time
from collections import deque
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from grawa.errors import CommunicationError, DivergedError
from grawa.lab.experiments.event_lines import ANY_EVENT
from grawa.lab.experiments.run_folder import RunFolder
from grawa.lab.records import GrowingLines
from grawa.lab.train.events import Joined, Started, Trained
from grawa.math.finite import are_finite
from grawa.rounds.attendance import ABSENT, HAS_COME
from grawa.rounds.report import RoundReport

_LOCK = ".events.lock"

_TURN_SECONDS = 1.0
"""A worker that can't write a round for so long goes on; the round is written with the next one."""

_LOOK_SECONDS = 0.05

_REMEMBERED = 1000
"""Rounds that a worker can write in place of others who died before they did."""

_PATIENT_ROUNDS = 20
"""For so long a worker leaves it to others to write rounds that it does not know."""


class Journal(Protocol):
    """Writes the events of a run to its folder, and its model."""

    def begin(self, started: Started) -> list[str]:
        """Called first; returns what the user must know of earlier lines."""
        ...

    def joined(self, event: Joined) -> None:
        """Called when an elastic worker has come to the others."""
        ...

    def add(self, kind: str, event: dict[str, Any]) -> None:
        """Adds an event that no other process has."""
        ...

    def round(self, report: RoundReport) -> None:
        """Adds a round."""
        ...

    def save(self, trained: Trained) -> bool:
        """Saves the model; returns whether this process is to write the end of the run."""
        ...

    def close(self) -> None:
        """Called when this process writes nothing more."""
        ...


class OwnJournal:
    """Of a process that is the only one to write the folder.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def begin(self, started: Started) -> list[str]:
        """See `Journal.begin`; forgets the rounds after the checkpoint."""
        notices = self._folder.forget_after(started.recorded)
        self.add("started", asdict(started))
        return notices

    def joined(self, event: Joined) -> None:
        """See `Journal.joined`."""

    def add(self, kind: str, event: dict[str, Any]) -> None:
        """See `Journal.add`."""
        self._folder.append(kind, event)

    def round(self, report: RoundReport) -> None:
        """See `Journal.round`."""
        self.add("round", report.as_json())

    def save(self, trained: Trained) -> bool:
        """See `Journal.save`."""
        if are_finite(trained.consensus.values()):
            self._folder.save_model(trained.consensus)
        return True

    def close(self) -> None:
        """See `Journal.close`."""


class SharedJournal:
    """Of an elastic worker: those who are there write the folder, so that no round is missing.

    A round is written by the first of the workers that were there, together with those before it
    that nobody has written, since their writer died. One that has just come does not know those, so
    where one comes all others see to them. The end is written by the first to come to it.
    Every job begins with a line that names it: a worker of an earlier job, which was stopped
    meanwhile, writes nothing any more.

    Args:
        folder: of the run.
        worker: the number of this one.
        wait: for how many seconds others may write the end.
    """

    def __init__(self, folder: RunFolder, worker: int, wait: float) -> None:
        self._folder, self._worker, self._wait = folder, worker, wait
        self._recent: deque[RoundReport] = deque(maxlen=_REMEMBERED)
        self._job, self._owes = "", False
        self._read = _Read(folder.events_file)
        self._about: dict[str, Any] = {}
        self._end = ExitStack()

    def begin(self, started: Started) -> list[str]:
        """See `Journal.begin`; what is written is known when it has come to the others."""
        self._about = asdict(started)
        return []

    def joined(self, event: Joined) -> None:
        """See `Journal.joined`; the first of a new job forgets the rounds after its checkpoint."""
        with _turn(self._folder.path, self._wait) as has_turn:
            if not has_turn:
                raise CommunicationError(
                    f"worker {self._worker} can't write to {self._folder.events_file}: another "
                    "worker has written to it for too long, and may be stopped"
                )
            self._read.on()
            self._job = event.job
            is_first = event.job not in self._read.jobs and not event.late
            if is_first and self._read.end != "finished":
                self._folder.forget_after(event.round)
                self._read.on()
            if self._is_over():
                return
            self._folder.append("started", {**self._about, **asdict(event)})

    def add(self, kind: str, event: dict[str, Any]) -> None:
        """See `Journal.add`; only the worker that writes the end has such."""
        self._folder.append(kind, event)

    def round(self, report: RoundReport) -> None:
        """See `Journal.round`; rounds before the worker has joined the job are others' to write."""
        self._recent.append(report)
        there = [w for w in range(len(report.losses)) if report.left_out.get(w) != ABSENT]
        before = [w for w in there if report.left_out.get(w) != HAS_COME]
        is_first = there[0] == self._worker
        if before and len(before) < len(there):
            is_first = self._worker in before
        if self._job and (is_first or self._owes):
            with _turn(self._folder.path, _TURN_SECONDS) as has_turn:
                self._owes = not has_turn
                if has_turn:
                    self._write()

    def save(self, trained: Trained) -> bool:
        """See `Journal.save`; the others wait until the one that writes the end has done it.

        Returns:
            Whether it is this worker.

        Raises:
            CommunicationError: if that takes too long.
            DivergedError: if the model was found not to be finite.
        """
        has_turn = self._end.enter_context(_turn(self._folder.path, self._wait))
        if not has_turn:
            raise CommunicationError(
                f"the worker that writes the end of the run to {self._folder.path} has not done it "
                f"within {self._wait:g} s, and may be stopped"
            )
        self._write(patient=False)
        if self._read.end == "diverged":
            raise DivergedError(
                "the final model is not finite; the worker that has measured it says what to do"
            )
        return not self._is_over() and OwnJournal(self._folder).save(trained)

    def close(self) -> None:
        """See `Journal.close`; lets the next one write, which finds the end or writes it."""
        self._end.close()

    def _write(self, *, patient: bool = True) -> None:
        """Writes the rounds that nobody has written yet; with the turn.

        Args:
            patient: whether others may write rounds before them that this worker does not know.
        """
        self._read.on()
        last = self._read.round
        missing = [report for report in self._recent if report.round > last]
        is_gap = bool(missing) and missing[0].round > last + 1
        if is_gap and patient and len(missing) < _PATIENT_ROUNDS:
            return
        for report in () if self._is_over() else missing:
            self._folder.append("round", report.as_json())
        self._recent.clear()

    def _is_over(self) -> bool:
        """Whether the run has ended, or another job has begun after this one."""
        read = self._read
        return bool(read.end) or (self._job in read.jobs and self._job != read.jobs[-1])


class _Read:
    """What the lines of `events.jsonl` say, as far as it has been read.

    Args:
        path: of the file.

    Attributes:
        round: the last one.
        jobs: all of them, the last one last.
        end: the kind of event with which the run has ended; "" if it has not.
    """

    def __init__(self, path: Path) -> None:
        self._lines = GrowingLines(path, ANY_EVENT)
        self._forget()

    def _forget(self) -> None:
        self.round, self.end = 0, ""
        self.jobs: list[str] = []

    def on(self) -> None:
        """Reads what others have added; removes a line that one who died has left incomplete."""
        is_another, events = self._lines.read(mend=True)
        if is_another:
            self._forget()
        for event in events:
            self._take(event)

    def _take(self, event: dict[str, Any]) -> None:
        if event["kind"] in ("finished", "diverged"):
            self.end = event["kind"]
        if event["kind"] == "round" and isinstance(event.get("round"), int):
            self.round = event["round"]
        if "job" in event and event["job"] not in self.jobs:
            self.jobs.append(event["job"])


@contextmanager
def _turn(folder: Path, seconds: float) -> Generator[bool]:
    """Waits until no other process writes; the system ends the turn of one that dies.

    Yields:
        Whether it is this process's turn; not if that took longer than so many seconds.
    """
    deadline = time.monotonic() + seconds
    with (folder / _LOCK).open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    yield False
                    return
                time.sleep(_LOOK_SECONDS)
            else:
                yield True
                return
