"""Checkpoints of a user's own training loop."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from grawa.checkpoints.extras import Extras
from grawa.checkpoints.reading import Terms
from grawa.checkpoints.restore import Wanted, restore
from grawa.checkpoints.saver import Saver
from grawa.rounds.callback import weakly
from grawa.rounds.engine import Engine
from grawa.rounds.report import RoundReport
from grawa.warn import warn

Place = str | Path
"""Of checkpoints, or of one of them."""

Extra = Mapping[str, Any] | None
"""What a user adds to a checkpoint on a process: plain values and tensors."""

Resize = bool | Literal["donors"]
"""Whether workers and processes may be others than when a checkpoint was saved; with "donors" new
workers also get the optimizer state of saved ones."""


class Checkpoints:
    """Saves and restores the workers of this process, together with the others.

    Args:
        engine: with the hosted workers.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._saver = Saver(engine)
        engine.keeper.runner.tell.append(weakly(self._after_round))

    def save(self, folder: Place, extra: Extra, keep: int, *, wait: bool) -> Path:
        """See `Averager.save`."""
        extras = Extras(process={} if extra is None else extra)
        return self._saver.save(Path(folder), extras, keep, wait=wait)

    def _after_round(self, report: RoundReport) -> None:
        """Goes on with what is saved in the background; all processes end rounds in one order."""
        self._saver.settle()

    def finish(self) -> None:
        """See `Averager.finish_saving`."""
        self._saver.settle(wait=True)

    def restore(
        self, folder: Place, *, strict: bool, resize: Resize, fall_back: bool
    ) -> dict[str, Any] | None:
        """See `Averager.restore`."""
        self.finish()
        wanted = Wanted(
            folder=Path(folder),
            fall_back=fall_back,
            set_aside=fall_back,
            offer=lambda path: f"The one before it is sound: restore({str(path)!r}) takes it",
        )
        terms = Terms(strict=strict, resize=bool(resize), donors=resize == "donors")
        found = restore(self._engine, wanted, terms)
        if found is None:
            return None
        for line in (*found.passed_over, found.notice):
            if line:
                warn(line)
        return found.process
