"""Who writes what happens in a run to its folder: one process, or elastic workers in turn."""

import fcntl
import json
import os
import time
from collections import deque
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from grawa.errors import CommunicationError
from grawa.lab.experiments.run_folder import RunFolder
from grawa.lab.train.events import Joined, Started, Trained
from grawa.math.finite import are_finite
from grawa.rounds.attendance import ABSENT
from grawa.rounds.report import RoundReport

_LOCK = ".events.lock"

_TURN_SECONDS = 1.0
"""A worker that can't write a round for so long goes on; the round is written with the next one."""

_LOOK_SECONDS = 0.05

_REMEMBERED = 1000
"""Rounds that a worker can write in place of others who died before they did."""


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
    that nobody has written, since their writer died. The end is written by the first to come to it.
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
        self._job = ""
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
            if self._is_over():
                return
            if event.job not in self._read.jobs and not event.late:
                self._folder.forget_after(event.round)
            self._folder.append("started", {**self._about, **asdict(event)})

    def add(self, kind: str, event: dict[str, Any]) -> None:
        """See `Journal.add`; only the worker that writes the end has such."""
        self._folder.append(kind, event)

    def round(self, report: RoundReport) -> None:
        """See `Journal.round`; rounds before the worker has joined the job are others' to write."""
        self._recent.append(report)
        there = [w for w in range(len(report.losses)) if report.left_out.get(w) != ABSENT]
        if self._job and there[0] == self._worker:
            with _turn(self._folder.path, _TURN_SECONDS) as has_turn:
                if has_turn:
                    self._write()

    def save(self, trained: Trained) -> bool:
        """See `Journal.save`; the others wait until the one that writes the end has done it.

        Returns:
            Whether it is this worker.

        Raises:
            CommunicationError: if that takes too long.
        """
        has_turn = self._end.enter_context(_turn(self._folder.path, self._wait))
        if not has_turn:
            raise CommunicationError(
                f"the worker that writes the end of the run to {self._folder.path} has not done it "
                f"within {self._wait:g} s, and may be stopped"
            )
        self._write()
        return not self._is_over() and OwnJournal(self._folder).save(trained)

    def close(self) -> None:
        """See `Journal.close`; lets the next one write, which finds the end or writes it."""
        self._end.close()

    def _write(self) -> None:
        """Writes the rounds that nobody has written yet; with the turn."""
        self._read.on()
        while self._recent:
            report = self._recent.popleft()
            if report.round > self._read.round and not self._is_over():
                self._folder.append("round", report.as_json())

    def _is_over(self) -> bool:
        """Whether the run has ended, or another job has begun after this one."""
        read = self._read
        return read.has_ended or (self._job in read.jobs and self._job != read.jobs[-1])


class _Read:
    """What the lines of `events.jsonl` say, as far as it has been read.

    Args:
        path: of the file.

    Attributes:
        round: the last one.
        jobs: all of them, the last one last.
        has_ended: whether the run has.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begin(0)

    def _begin(self, inode: int) -> None:
        self._inode, self._offset = inode, 0
        self.round, self.has_ended = 0, False
        self.jobs: list[str] = []

    def on(self) -> None:
        """Reads what others have added; removes a line that one who died has left incomplete."""
        with self._path.open("r+b") as file:
            inode = os.fstat(file.fileno()).st_ino
            if inode != self._inode:  # somebody has put another file in its place
                self._begin(inode)
            file.seek(self._offset)
            text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            if len(whole) < len(text):
                file.truncate(self._offset + len(whole))
        self._offset += len(whole)
        for line in whole.splitlines():
            self._take(json.loads(line))

    def _take(self, event: dict[str, Any]) -> None:
        self.has_ended |= event["kind"] in ("finished", "diverged")
        if event["kind"] == "round":
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
