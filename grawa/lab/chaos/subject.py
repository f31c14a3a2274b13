"""What is trained under faults: a run of the laboratory, or a function of the user's own."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

from grawa.checkpoints.places import checkpoints
from grawa.errors import UserError
from grawa.lab.chaos.commands import Size, of_function, of_task, of_worker
from grawa.lab.chaos.verdict import Result
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.run_folder import RunFolder
from grawa.lab.records import read_lines
from grawa.lab.report.page import write_page
from grawa.lab.report.run_page import run_page
from grawa.lab.shapes import table, text


class Subject(Protocol):
    """What is trained."""

    @property
    def metric(self) -> str:
        """The name of the final error."""
        ...

    @property
    def samples(self) -> int:
        """Of the test data, if the error is a rate."""
        ...

    @property
    def exact(self) -> bool:
        """Whether it must end with the same bits if nothing changes what workers compute."""
        ...

    def command(self, run: Path, seen: Path, host: int, attempt: int) -> Sequence[str]:
        """The command line of a host's launcher.

        Args:
            run: its folder, as its processes see it.
            seen: the same folder, as it is seen from here.
            host: where it is started.
            attempt: how often it was started before.
        """
        ...

    @property
    def elastic(self) -> bool:
        """Whether its workers come and go, and are started one by one."""
        ...

    @property
    def grace(self) -> str:
        """How long rounds of elastic workers wait for slow ones; "" for as long as they live."""
        ...

    def worker_command(self, run: Path, address: str) -> Sequence[str]:
        """The command line of an elastic worker.

        Args:
            run: its folder, as its processes see it.
            address: of its host, for the other workers.
        """
        ...

    def record(self, run: Path, seen: Path) -> Path:
        """The record of its rounds, as it is seen from here."""
        ...

    def saved(self, seen: Path) -> Path:
        """The folder of its checkpoints, as it is seen from here."""
        ...

    def result(self, run: Path) -> Result:
        """What it ended with."""
        ...

    def why_unreadable(self, run: Path) -> str:
        """Why its folder can't be read; empty if it can."""
        ...


@dataclass(frozen=True, kw_only=True)
class TaskSubject:
    """A run of `grawa train`.

    Attributes:
        size: of the job.
        config: its options.
        file: the file in which they are.
        metric: as for `Subject`.
        samples: as for `Subject`.
        measure: measures the model in a run's folder again.
    """

    size: Size
    config: TrainConfig
    file: Path
    metric: str
    samples: int
    measure: Callable[[Path], float]

    @property
    def exact(self) -> bool:
        """See `Subject.exact`; not where time decides what is computed."""
        timed = self.config.budget is not None or self.config.schedule.startswith("shared-count")
        return not (timed or self.elastic)

    @property
    def elastic(self) -> bool:
        """See `Subject.elastic`."""
        return self.config.elastic

    @property
    def grace(self) -> str:
        """See `Subject.grace`."""
        return self.config.grace or ""

    def worker_command(self, run: Path, address: str) -> Sequence[str]:
        """See `Subject.worker_command`."""
        return of_worker(self.file, run, address)

    def command(self, run: Path, seen: Path, host: int, attempt: int) -> Sequence[str]:
        """See `Subject.command`."""
        return of_task(self.size, self.file, run, seen, host, attempt)

    def record(self, run: Path, seen: Path) -> Path:
        """See `Subject.record`."""
        return seen / "events.jsonl"

    def saved(self, seen: Path) -> Path:
        """See `Subject.saved`."""
        return seen / "checkpoints"

    def result(self, run: Path) -> Result:
        """See `Subject.result`."""
        folder = RunFolder.open(run)
        events, model = folder.events(), run / "model.safetensors"
        errors = [event["error"] for event in events if event["kind"] == "finished"]
        there = model.is_file()
        return Result(
            error=errors[-1] if errors else None,
            measured=self.measure(run) if there else None,
            digest=hashlib.sha256(model.read_bytes()).hexdigest() if there else "",
            rounds=[event["round"] for event in events if event["kind"] == "round"],
        )

    def why_unreadable(self, run: Path) -> str:
        """See `Subject.why_unreadable`; makes the page of `grawa report`."""
        try:
            write_page([run_page(RunFolder.open(run))], run / "report.html")
        except UserError as error:
            return str(error)
        return ""


@dataclass(frozen=True, kw_only=True)
class FunctionSubject:
    """A function of the user's own.

    Attributes:
        size: of the job.
        what: module:function.
    """

    size: Size
    what: str
    metric: str = "final value"
    samples: int = 1
    exact: bool = False
    elastic: bool = False
    grace: str = ""

    def command(self, run: Path, seen: Path, host: int, attempt: int) -> Sequence[str]:
        """See `Subject.command`."""
        return of_function(self.size, self.what, run, self.record(run, seen), host, attempt)

    def worker_command(self, run: Path, address: str) -> NoReturn:
        """Refused: its record is written by worker 0, which is not always there."""
        raise UserError(f"{self.what} can't be run with --elastic: only tasks can")

    def record(self, run: Path, seen: Path) -> Path:
        """See `Subject.record`; beside the small disk, which is for the function's checkpoints."""
        return run.parent.parent / f"{run.parent.name}-rounds.jsonl"

    def saved(self, seen: Path) -> Path:
        """See `Subject.saved`."""
        return seen

    def result(self, run: Path) -> Result:
        """See `Subject.result`; rounds that a restart has undone are counted once."""
        path = self.record(run, run)
        lines = read_lines(path, table({"kind": text}, {})).entries if path.exists() else []
        errors = [line["error"] for line in lines if line["kind"] == "finished"]
        rounds = sorted({line["round"] for line in lines if line["kind"] == "round"})
        error = errors[-1] if errors else None
        return Result(error=error, measured=None, digest="", rounds=rounds)

    def why_unreadable(self, run: Path) -> str:
        """See `Subject.why_unreadable`; looks at its checkpoints' names."""
        try:
            checkpoints(run)
        except UserError as error:
            return str(error)
        return ""
