"""What a job's record of rounds and its logs say, read as they grow."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grawa.lab.experiments.event_lines import ANY_EVENT
from grawa.lab.records import GrowingLines

_PROGRESS = re.compile(r"(\[\w+\]:)?\s*(step|s) [0-9]+/[0-9]+  ")
"""Lines about rounds, which say nothing of a fault."""

_ERROR = re.compile(r"(?:\[\w+\]:)?\s*((?:grawa: |[\w.]*(?:Error|Exception)\b).*)")
"""The last line of a traceback, or what the command `grawa` says."""

_OF_TORCHRUN = "torch.distributed.elastic."
"""How the errors begin with which torchrun ends because a worker has failed."""


@dataclass(frozen=True)
class Mark:
    """A moment of a job.

    Attributes:
        starts: how often it had begun or continued.
        round: its last round then.
        step: local steps of each worker at that round.
    """

    starts: int
    round: int
    step: int


class Watch:
    """A job's record of rounds, one JSON object a line; also one that is replaced by another.

    Args:
        path: the record; it need not exist yet.

    Attributes:
        starts: how often the job has begun or continued.
        continued_from: the round of the checkpoint from which it did so last.
        round: the last round.
        left_out: the workers that it left out.
        finished: the last entry of a job that has come to its end.
    """

    def __init__(self, path: Path) -> None:
        self._lines = GrowingLines(path, ANY_EVENT)
        self._forget()

    def _forget(self) -> None:
        self._job = ""
        self.starts, self.continued_from, self.round = 0, 0, 0
        self.left_out: dict[int, str] = {}
        self._absences: dict[int, tuple[int, str]] = {}
        self.finished: dict[str, Any] | None = None
        self._steps = {0: 0}
        self._times = (0.0, 0.0)

    def look(self) -> None:
        """Reads what is new."""
        try:
            is_another, events = self._lines.read()
        except OSError:
            return  # the host through which it is seen is gone
        if is_another:
            self._forget()
        for event in events:
            self._take(event)

    def _take(self, event: dict[str, Any]) -> None:
        if event["kind"] == "started":
            job = event.get("job", str(self.starts))
            if job == self._job:
                return  # one more elastic worker has begun, or has come late
            self._job = job
            self.starts += 1
            self.round = self.continued_from = event.get("round", 0)
        elif event["kind"] == "round":
            self._steps[event["round"]] = event["step"]
            self._times = (self._times[1], event["elapsed"])
            if event["round"] > self.round:
                self.round = event["round"]
                self.left_out = {int(worker): why for worker, why in event["left_out"].items()}
                for worker, why in self.left_out.items():
                    self._absences[worker] = self.round, why
        elif event["kind"] == "finished":
            self.finished = event

    def left_out_after(self, round: int, worker: int) -> str:
        """Why a worker was left out of a round after this one; empty if it was not."""
        last, why = self._absences.get(worker, (0, ""))
        return why if last > round else ""

    @property
    def step(self) -> int:
        """Local steps of each worker at the last round."""
        return self._steps.get(self.round, 0)

    @property
    def round_seconds(self) -> float:
        """The time between the last two rounds."""
        return max(0.0, self._times[1] - self._times[0])

    def mark(self) -> Mark:
        """This moment."""
        return Mark(self.starts, self.round, self.step)

    def goes_on_since(self, mark: Mark) -> bool:
        """Whether a round that began after this moment was completed, with all workers.

        Without a restart the next round may have begun before; so it is the one after that.

        Args:
            mark: the moment.

        Returns:
            Whether there is one.
        """
        if self.left_out:
            return False
        if self.starts > mark.starts:
            return self.round > self.continued_from
        return self.round >= mark.round + 2

    def lost_since(self, mark: Mark) -> int:
        """Local steps of each worker before this moment that a restart has undone."""
        if self.starts == mark.starts:
            return 0
        return max(0, mark.step - self._steps.get(self.continued_from, 0))


class Logs:
    """What programs print, apart from their progress.

    Args:
        folder: with the logs.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}

    def new_lines(self) -> list[str]:
        """Lines since the last call."""
        found: list[str] = []
        for path in sorted(self._folder.glob("*.log")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                text = file.read().rpartition(b"\n")[0]
            if text:
                self._read[path] = self._read.get(path, 0) + len(text) + 1
                found += text.decode(errors="replace").splitlines()
        return [line for line in found if line.strip() and not _PROGRESS.match(line)]

    def last_error(self) -> str:
        """The last error that a worker has printed, and where to read more."""
        lines: list[str] = []
        for path in sorted(self._folder.glob("*.log"), key=lambda path: path.stat().st_mtime):
            lines += path.read_text(errors="replace").splitlines()
        found = [match[1] for line in lines if (match := _ERROR.match(line))]
        said = [text for text in found if not text.startswith(_OF_TORCHRUN)]
        return f"{said[-1] if said else 'no error was printed'} (see {self._folder})"
