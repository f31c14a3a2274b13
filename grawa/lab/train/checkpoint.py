"""What a run's checkpoints hold, when they are made, and from which one a run continues."""

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from grawa.errors import CommunicationError
from grawa.lab.train.events import Evaluated
from grawa.lab.train.interval import Interval
from grawa.rounds.attendance import Absence
from grawa.rounds.report import RoundReport
from grawa.saving import (
    CheckpointError,
    Checkpoints,
    Chosen,
    Everyones,
    ForeignError,
    Saver,
    choose,
)

SCHEMA = 3
"""Version of what checkpoints hold; raised when an entry changes its meaning."""

_WRITING_SHARE = 20
"""Writing may take one part in so many of the time; then checkpoints are made less often."""

News = RoundReport | Evaluated
"""An event of a round."""


class Header(NamedTuple):
    """What a part of a checkpoint belongs to."""

    schema: int
    identity: dict[str, object]
    """The run's options."""
    round: int
    elapsed: float
    """Seconds since the start, by worker 0's clock."""
    process: int
    processes: int
    hosted: int
    """Workers of each process."""

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "Header":
        """The header of a part; a `CheckpointError` if it is not of this version."""
        found = state.get("header")
        if not isinstance(found, dict) or found.get("schema") != SCHEMA:
            raise ForeignError(
                "the checkpoint was saved by another version of grawa, which can resume it; this "
                "one can report and evaluate the run"
            )
        kinds = {"identity": dict, "elapsed": float}
        for name in cls._fields:
            if not isinstance(found.get(name), kinds.get(name, int)):
                raise CheckpointError(f"the checkpoint's header has no {name}")
        return cls(**{name: found[name] for name in cls._fields})


@dataclass(frozen=True, kw_only=True)
class Saving:
    """Where and when a run saves checkpoints, and from which one it continues.

    Args:
        checkpoints: the folder.
        every: how often; with a time less often, if writing would take more than 5% of it.
        identity: the options that make the run what it is: name -> value, a plain one. A
            checkpoint with others is refused.
        offer: says how a user continues from this checkpoint.
        wanted: the round of the checkpoint from which the run continues; by default the newest.
        fall_back: whether it continues from an older one if that one can't be used.
        events: a file with the events of earlier rounds, which must be on the disk when a
            checkpoint is complete.
    """

    checkpoints: Checkpoints
    every: Interval
    identity: Mapping[str, object]
    offer: Callable[[Path], str]
    wanted: int | None = None
    fall_back: bool = False
    events: Path | None = None


class RunSaver:
    """Saves a run's checkpoints; every process has one, and calls it at the same rounds.

    Args:
        saving: where and when.
        process: which process this is.
        shape: the number of processes, and of the workers that each hosts.
        everyones: exchanges whole numbers between the processes.

    Attributes:
        found: the checkpoint from which the run continues, if there is one.
    """

    def __init__(
        self, saving: Saving, process: int, shape: tuple[int, int], everyones: Everyones
    ) -> None:
        self._saving, self._process, self._shape = saving, process, shape
        self.found = choose(
            saving.checkpoints,
            process,
            everyones,
            self._check,
            offer=saving.offer,
            wanted=saving.wanted,
            fall_back=saving.fall_back,
        )
        self._clear(self.found)
        self._saver: Saver | None = None
        self._last = 0.0

    def open(self, gather: Callable[[float], Tensor], elapsed: float) -> None:
        """Called when the workers are ready.

        Args:
            gather: brings a number of every worker to all.
            elapsed: seconds since the start.
        """
        alone = self._shape[0] == 1
        self._saver = Saver(self._saving.checkpoints, self._process, None if alone else gather)
        self._last = elapsed

    def after_round(self, report: RoundReport, state: Callable[[], dict[str, Any]]) -> None:
        """Saves a checkpoint if one is due; completes the one before.

        Args:
            report: of the round.
            state: returns what is to be saved, plain values and tensors.
        """
        assert self._saver is not None, "it was opened"
        self._saver.settle()
        every = self._saving.every
        if every.rounds:
            due = report.round % every.rounds == 0
        else:
            least = max(every.seconds, _WRITING_SHARE * self._saver.seconds)
            due = every.seconds > 0.0 and report.elapsed - self._last >= least
        if not due:
            return
        self._last = report.elapsed
        if self._saving.events is not None and self._process == 0:
            _sync(self._saving.events)
        header = Header(
            schema=SCHEMA,
            identity=dict(self._saving.identity),
            round=report.round,
            elapsed=report.elapsed,
            process=self._process,
            processes=self._shape[0],
            hosted=self._shape[1],
        )
        self._saver.save(report.round, {"header": header._asdict(), **_copied(state())})

    def finish(self) -> None:
        """Waits until the last checkpoint is complete."""
        assert self._saver is not None, "it was opened"
        self._saver.settle(wait=True)

    def _check(self, number: int, state: dict[str, Any]) -> int:
        """Refuses a part that does not belong to this run and process; see `choose`."""
        header = Header.of(state)
        if changed := _differences(header.identity, self._saving.identity):
            raise ForeignError(
                f"the run's options have changed since its checkpoint was saved: {changed}. Put "
                "the old ones back into config.toml, or start a new run"
            )
        if (header.processes, header.hosted) != self._shape:
            raise ForeignError(
                f"the checkpoint has {header.processes} processes with {header.hosted} workers "
                f"each, not {self._shape[0]} with {self._shape[1]}: resume with the same numbers"
            )
        if (header.round, header.process) != (number, self._process):
            raise CheckpointError(
                f"the file of process {self._process} in {self._saving.checkpoints.path(number)} "
                f"is that of process {header.process} at round {header.round}"
            )
        return int(header.elapsed * 1e6)

    def _clear(self, found: Chosen | None) -> None:
        """Removes what was never complete, and puts newer checkpoints aside."""
        checkpoints, process = self._saving.checkpoints, self._process
        if process == 0:
            checkpoints.clean()
            for number in checkpoints.rounds():
                if found is not None and number > found.round:
                    checkpoints.set_aside(number)


@contextmanager
def refusing(path: Path) -> Generator[None]:
    """Turns the errors of restoring what is not as it was saved into a `CheckpointError`."""
    try:
        yield
    except CommunicationError:
        raise
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
        cause = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"{path} does not fit this run: {cause}") from error


def plain_news(news: Sequence[News]) -> list[dict[str, Any]]:
    """Events as plain values and tensors."""
    return [
        {"kind": type(event).__name__, **vars(event), **_plain_absences(event)} for event in news
    ]


def _plain_absences(event: News) -> dict[str, Any]:
    if not isinstance(event, RoundReport):
        return {}
    return {"absences": {worker: vars(absence) for worker, absence in event.absences.items()}}


def news_from(saved: Sequence[Mapping[str, Any]]) -> list[News]:
    """The events of which `plain_news` made plain values."""
    return [
        RoundReport(**{**values, "absences": {k: Absence(**v) for k, v in absences.items()}})
        if kind == RoundReport.__name__
        else Evaluated(**values)
        for kind, absences, values in map(_taken_apart, saved)
    ]


def _taken_apart(saved: Mapping[str, Any]) -> tuple[str, dict[int, Any], dict[str, Any]]:
    values = dict(saved)
    return values.pop("kind"), values.pop("absences", {}), values


def _differences(saved: Mapping[str, object], here: Mapping[str, object]) -> str:
    """The options that differ, in words; empty if none does."""
    names = sorted({*saved, *here})
    return ", ".join(
        f"{name} was {saved.get(name, 'not given')!s}, and is {here.get(name, 'not given')!s}"
        for name in names
        if saved.get(name) != here.get(name)
    )


def _copied(value: Any) -> Any:
    """Copies of all tensors, on the CPU, in dictionaries, lists and tuples."""
    if isinstance(value, Tensor):
        return value.detach().clone() if value.device.type == "cpu" else value.detach().cpu()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_copied(item) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    return value


def _sync(path: Path) -> None:
    """Waits until a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
