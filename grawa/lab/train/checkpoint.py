"""What a run's checkpoints hold, when they are made, and from which one a run continues."""

import json
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from grawa.checkpoints.extras import Extras
from grawa.checkpoints.manifest import newest_about
from grawa.checkpoints.reading import Terms
from grawa.checkpoints.restore import Restored, Wanted, restore
from grawa.checkpoints.saver import Saver
from grawa.errors import CommunicationError, UserError
from grawa.lab.together import everyones
from grawa.lab.train.events import Evaluated
from grawa.lab.train.interval import Interval
from grawa.lab.train.stop import StoppedError
from grawa.rounds.attendance import Absence
from grawa.rounds.engine import Engine
from grawa.rounds.report import RoundReport
from grawa.saving.part import CheckpointError, ForeignError

SCHEMA = 4
"""Version of what a run's checkpoints hold; raised when an entry changes its meaning."""

_WRITING_SHARE = 20
"""Writing may take one part in so many of the time; then checkpoints are made less often."""

News = RoundReport | Evaluated
"""An event of a round."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """From which checkpoint a run continues, and with which workers.

    Args:
        name: of the checkpoint; by default the newest.
        resize: whether there may be another number of workers or processes.
        donors: whether new workers get the optimizer state of saved ones: see `Averager.restore`.
    """

    name: str | None = None
    resize: bool = False
    donors: bool = False


NEWEST = Start()
"""From the newest checkpoint, as it was."""


@dataclass(frozen=True, kw_only=True)
class Saving:
    """Where and when a run saves checkpoints, and from which one it continues.

    Args:
        folder: for checkpoints.
        keep: how many are kept.
        every: how often; with a time less often, if writing would take more than 5% of it.
        identity: the options that make the run what it is, apart from the numbers of workers and
            processes: name -> value, as JSON can write it. A checkpoint with others is refused.
        current: converts what an older version has saved as the identity to today's options.
        resume: the command that continues the run.
        start: from which checkpoint the run continues.
        fall_back: whether it continues from an older one if that one can't be used.
        events: a file with the events of earlier rounds, which must be on the disk when a
            checkpoint is complete.
    """

    folder: Path
    keep: int = 3
    every: Interval
    identity: Mapping[str, object]
    current: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict
    resume: str
    start: Start = NEWEST
    fall_back: bool = False
    events: Path | None = None


class RunSaver:
    """Saves a run's checkpoints; every process has one, and calls it at the same rounds.

    Args:
        saving: where and when.
        process: which process this is.

    Attributes:
        stacked: whether the run stacked its workers' steps until now; `None` for a new run.
    """

    _saver: Saver

    def __init__(self, saving: Saving, process: int) -> None:
        self._saving, self._process = saving, process
        known = newest_about(saving.folder).get("stacked")
        self.stacked = None if known is None else bool(known)
        self.stacked = everyones(self.stacked, "look for checkpoints")[0]
        self._last = 0.0

    def restore(self, engine: Engine) -> Restored | None:
        """Restores the workers and the engine from a checkpoint, if there is one; collective."""
        saving, start = self._saving, self._saving.start
        wanted = Wanted(
            folder=saving.folder if start.name is None else saving.folder / start.name,
            fall_back=saving.fall_back,
            set_aside=True,
            offer=lambda path: (
                f"`{saving.resume} --from {path.name}` continues from the one before it"
            ),
        )
        terms = Terms(
            resize=start.resize,
            donors=start.donors,
            how=lambda workers, processes: (
                f"`{saving.resume} --workers {workers} --processes {processes}` continues with "
                "these"
            ),
            belongs=self._check,
        )
        return restore(engine, wanted, terms)

    def open(self, engine: Engine, *, stacked: bool, elapsed: float) -> None:
        """Called when the workers are ready.

        Args:
            engine: with the hosted workers.
            stacked: whether they make their steps in one pass.
            elapsed: seconds since the start.
        """
        identity = dict(self._saving.identity)
        self._about = {"schema": SCHEMA, "identity": identity, "stacked": stacked}
        self._saver, self._last = Saver(engine), elapsed
        self._writes_events = self._process == 0 or engine.plan.elastic  # then each may

    def after_round(self, report: RoundReport, extras: Callable[[], Extras]) -> None:
        """Saves a checkpoint if one is due; goes on with the one under way.

        Args:
            report: of the round.
            extras: returns what is to be saved beside the workers and the engine.

        Raises:
            StoppedError: if training is to end; then the checkpoint of this round is complete.
        """
        with self._saying_how_to_go_on():
            self._saver.settle()
            due = report.stopping or self._is_due(report)
        if due:
            self._last = report.elapsed
            self.save(extras(), wait=report.stopping)
        if report.stopping:
            raise StoppedError(saved=True)

    def save(self, extras: Extras, *, wait: bool) -> None:
        """Saves a checkpoint; every process that must agree calls it.

        Args:
            extras: what is to be saved beside the workers and the engine.
            wait: whether it is complete when this returns.
        """
        with self._saying_how_to_go_on():
            if self._saving.events is not None and self._writes_events:
                _sync(self._saving.events)
            added = Extras(workers=extras.workers, shared=extras.shared, about=self._about)
            folder, keep = self._saving.folder, self._saving.keep
            self._saver.save(folder, added, keep, wait=wait)

    def _is_due(self, report: RoundReport) -> bool:
        every = self._saving.every
        if every.rounds:
            return report.round % every.rounds == 0
        least = max(every.seconds, _WRITING_SHARE * self._saver.seconds)
        return every.seconds > 0.0 and report.elapsed - self._last >= least

    def finish(self) -> None:
        """Waits until the last checkpoint is complete."""
        with self._saying_how_to_go_on():
            self._saver.settle(wait=True)

    @contextmanager
    def _saying_how_to_go_on(self) -> Generator[None]:
        """Adds to an error, such as that of a full disk, how the run goes on afterwards."""
        try:
            yield
        except CommunicationError:
            raise
        except UserError as error:
            go_on = f"When that is mended, `{self._saving.resume}` continues the run"
            raise UserError(f"{error}. {go_on}") from error

    def _check(self, about: Mapping[str, Any]) -> None:
        """Refuses a checkpoint that does not belong to this run; see `Terms`."""
        if about.get("schema") != SCHEMA or not isinstance(about.get("identity"), dict):
            raise ForeignError(
                "the checkpoint was saved by another version of grawa, which can resume it; this "
                "one can report and evaluate the run"
            )
        here = json.loads(json.dumps(dict(self._saving.identity)))
        if changed := _differences(self._saving.current(about["identity"]), here):
            raise ForeignError(
                f"the run's options have changed since its checkpoint was saved: {changed}. Put "
                "the old ones back into config.toml, or start a new run"
            )


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
    return [{"kind": type(event).__name__, **asdict(event)} for event in news]


def news_from(saved: Sequence[Mapping[str, Any]]) -> list[News]:
    """The events of which `plain_news` made plain values."""
    return [_event(**entry) for entry in saved]


def _event(kind: str, **values: Any) -> News:
    if kind == Evaluated.__name__:
        return Evaluated(**values)
    absences = {worker: Absence(**absence) for worker, absence in values["absences"].items()}
    return RoundReport(**{**values, "absences": absences})


def _differences(saved: Mapping[str, object], here: Mapping[str, object]) -> str:
    """The options that differ, in words; empty if none does."""
    names = sorted({*saved, *here})
    return ", ".join(
        f"{name} was {saved.get(name, 'not given')!s}, and is {here.get(name, 'not given')!s}"
        for name in names
        if saved.get(name) != here.get(name)
    )


def _sync(path: Path) -> None:
    """Waits until a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
