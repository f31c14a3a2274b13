"""Saves checkpoints, while training waits or in the background."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread

from grawa.checkpoints.extras import Extras
from grawa.checkpoints.places import folder_of
from grawa.checkpoints.writing import Writing, failure_of
from grawa.counts import check_count
from grawa.errors import UserError
from grawa.rounds.agreement import Agreement
from grawa.rounds.engine import Engine
from grawa.rounds.purposes import Purpose


class Saver:
    """Saves checkpoints of all workers, one at a time; every process has one.

    A checkpoint is written in stages, each by a thread, and the next one begins when all processes
    have told each other in one exchange that they have done the one before.

    Args:
        engine: with the hosted workers.

    Attributes:
        seconds: what the last complete checkpoint took to write, on the slowest process.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._work: _Work | None = None
        self.seconds = 0.0

    def save(self, folder: Path, extras: Extras, keep: int, *, wait: bool = True) -> Path:
        """Saves a checkpoint, after the one under way is complete; every process must call it.

        Args:
            folder: for checkpoints; it is made if there is none. Elastic workers have a folder each
                in it.
            extras: what the user adds.
            keep: how many of the last checkpoints stay.
            wait: whether it returns when the checkpoint is complete. Otherwise `settle` must
                follow, and this copies everything first.

        Returns:
            The checkpoint's folder, when it is complete. If a process can't write this one, or the
            one before, every process raises `UserError`.
        """
        check_count("keep", keep)

        def together(agreement: Agreement) -> Path:
            self._settle(agreement, wait=True)
            own = folder_of(folder, self._engine)
            writing = Writing.agreed(self._engine, agreement, own, keep)
            stages = writing.stages(extras, copy=not wait)
            self._work = _Work(writing, stages, alone=agreement.is_alone)
            if wait:
                self._settle(agreement, wait=True)
            return writing.path

        return self._engine.together(Purpose.SAVING, together)

    def settle(self, *, wait: bool = False) -> None:
        """Goes on with the checkpoint under way where all processes can; every one must call it.

        Without a checkpoint under way it sends no message. If one process can't write, all raise
        `UserError`; complete checkpoints are still there.

        Args:
            wait: until it is complete.
        """
        if self._work is not None:
            self._engine.together(Purpose.SAVING, lambda each: self._settle(each, wait=wait))

    def _settle(self, agreement: Agreement, *, wait: bool) -> None:
        while (work := self._work) is not None:
            failure, seconds = work.outcome(wait=wait)
            try:
                lines = agreement.settle(failure, "" if seconds is None else str(seconds))
            except UserError:
                self._work = None
                work.abandon()
                raise
            if "" in lines:  # a process is still writing
                return
            if not work.go_on(max(map(float, lines))):
                self._work, self.seconds = None, work.seconds
            if not wait:
                return


class _Work:
    """A checkpoint that is being written by a thread, stage by stage.

    Args:
        writing: the checkpoint.
        stages: of the writing.
        alone: whether there is no other process for which a stage must wait.
    """

    def __init__(
        self, writing: Writing, stages: Sequence[Callable[[], None]], *, alone: bool
    ) -> None:
        self._writing = writing
        self._left = [stages] if alone else [[stage] for stage in stages]
        self._error: Exception | None = None
        self._took = 0.0
        self.seconds = 0.0
        self._start()

    def outcome(self, *, wait: bool) -> tuple[UserError | None, float | None]:
        """The error of the present stage, and the seconds it took; `None` while it goes on."""
        self._thread.join(None if wait else 0.0)
        if self._thread.is_alive():
            return None, None
        if self._error is not None:
            return failure_of(self._writing.failed, self._error), None
        return None, self._took

    def go_on(self, seconds: float) -> bool:
        """Starts the next stage.

        Args:
            seconds: what the present one took, on the slowest process.

        Returns:
            Whether there is one.
        """
        self.seconds += seconds
        if self._left:
            self._start()
            return True
        return False

    def abandon(self) -> None:
        """Ends it, and removes what was written."""
        self._thread.join()
        self._writing.abandon()

    def _start(self) -> None:
        stages = self._left.pop(0)

        def run() -> None:
            began = time.monotonic()
            try:
                for stage in stages:
                    stage()
            except Exception as error:  # of whatever kind, it is raised on every process
                self._error = error
            self._took = time.monotonic() - began

        # A daemon, so that a process that has failed can exit without waiting for the disk.
        self._thread = Thread(target=run, name="grawa checkpoint", daemon=True)
        self._thread.start()
