"""Saves a checkpoint: all processes write their files, and then it gets its name."""

import json
import secrets
import shutil
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from pickle import PicklingError
from typing import Any

import torch

from grawa.checkpoints.contents import frozen_state, random_state, worker_state
from grawa.checkpoints.files import write_tensors, write_text
from grawa.checkpoints.layout import FORMAT, Layout
from grawa.checkpoints.places import MANIFEST, building, checkpoints, name_of, next_number, tidy
from grawa.errors import UserError
from grawa.rounds.agreement import Agreement
from grawa.rounds.engine import Engine
from grawa.rounds.origin import described
from grawa.rounds.purposes import Purpose
from grawa.saving import sync_folder
from grawa.version import __version__

_FAILURES = (OSError, RuntimeError, TypeError, ValueError, AttributeError, PicklingError)
"""What writing may raise: a full disk, or values that can't be pickled."""


def save(engine: Engine, folder: Path, extra: Mapping[str, Any] | None, keep: int) -> Path:
    """Saves everything of all workers; every process must call it.

    Args:
        engine: with the hosted workers.
        folder: for checkpoints; it is made if there is none.
        extra: what the user adds.
        keep: how many of the last checkpoints stay.

    Returns:
        The checkpoint's folder.

    Raises:
        UserError: on every process, if one can't write.
    """
    if not isinstance(keep, int) or keep < 1:
        raise UserError(f"keep must be a whole number, at least 1, got {keep}")
    added = {} if extra is None else dict(extra)

    def together(agreement: Agreement) -> Path:
        number, id = _agreed_number(agreement, folder)
        writing = _Writing(engine, agreement, folder, name_of(number, engine.round), id)
        writing.run(added)
        if writing.is_first():
            with suppress(OSError):  # the checkpoint is complete; the next save tries again
                tidy(folder, keep, number)
        return writing.path

    return engine.together(Purpose.SAVING, together)


def _agreed_number(agreement: Agreement, folder: Path) -> tuple[int, str]:
    """The number of this checkpoint, and what marks all its files as belonging together."""
    with _told(agreement, f"no checkpoint can be saved in {folder}") as answer:
        folder.mkdir(parents=True, exist_ok=True)
        answer.line = json.dumps([next_number(folder), secrets.token_hex(8)])
    lines = [json.loads(line) for line in answer.lines]
    return max(number for number, _ in lines), lines[0][1]


class _Answer:
    line = ""
    lines: list[str]


@contextmanager
def _told(agreement: Agreement, what: str) -> Generator[_Answer]:
    """Does something on every process, and fails on all if one has failed."""
    answer, failure = _Answer(), None
    try:
        yield answer
    except UserError as error:
        failure = UserError(f"{what}: {error}")
    except _FAILURES as error:
        why = error.strerror if isinstance(error, OSError) else None
        failure = UserError(f"{what}: {why or (str(error).splitlines() or ['?'])[0]}")
    answer.lines = agreement.settle(failure, answer.line)


class _Writing:
    """A checkpoint in writing.

    Args:
        engine: with the hosted workers.
        agreement: between all processes.
        folder: with the checkpoints.
        name: of this one.
        id: of this one, in all its files.
    """

    def __init__(
        self, engine: Engine, agreement: Agreement, folder: Path, name: str, id: str
    ) -> None:
        self._engine, self._agreement, self._folder = engine, agreement, folder
        self._layout, self._id = Layout.of(engine, agreement), id
        self.path, self._place = folder / name, building(folder, name)
        newest = max(checkpoints(folder).items(), default=(0, None))[1]
        safe = f"{newest} is complete and untouched" if newest else "there is none before it"
        self._failed = f"the checkpoint {self.path} could not be saved ({safe})"

    def run(self, extra: dict[str, Any]) -> None:
        """Writes all files, and names the folder when all processes have.

        Args:
            extra: what the user adds on this process.

        Raises:
            UserError: on every process, if one can't write.
        """
        state = self._engine.keeper.state_dict()
        shared = _cut_shared(state)
        try:
            with _told(self._agreement, self._failed):
                self._place.mkdir(exist_ok=True)
                self._write_own(state, extra)
            with _told(self._agreement, self._failed):
                if self._is_first_of_part():
                    self._write_shared(shared)
            with _told(self._agreement, self._failed):
                if self.is_first():
                    self._complete()
        except UserError:
            shutil.rmtree(self._place, ignore_errors=True)
            raise

    def is_first(self) -> bool:
        """Whether no earlier process writes to the same folder, which hosts may not share."""
        return not any(self._is_here(p) for p in range(self._layout.process))

    def _is_first_of_part(self) -> bool:
        earlier = range(self._layout.part, self._layout.process, self._layout.parts)
        return not any(self._is_here(process) for process in earlier)

    def _is_here(self, process: int) -> bool:
        name = self._layout.process_file(process)
        return any((place / name).exists() for place in (self._place, self.path))

    def _write_own(self, state: dict[str, Any], extra: dict[str, Any]) -> None:
        layout, replicas = self._layout, self._engine.replicas
        for k, worker in enumerate(layout.hosted):
            own = worker_state(replicas.models[k], replicas.optimizers[k], replicas.frozen_names())
            self._write(layout.worker_file(worker), own)
        random = random_state(replicas.gradients.device)
        own = {"averager": state, "random": random, "extra": extra}
        self._write(layout.process_file(layout.process), own)

    def _write_shared(self, shared: list[Any]) -> None:
        replicas = self._engine.replicas
        frozen = frozen_state(replicas.models[0], replicas.frozen_names())
        self._write(self._layout.shared_file, {"strategy": shared, "frozen": frozen})

    def _write(self, name: str, entries: dict[str, Any]) -> None:
        write_tensors(self._place / name, {"id": self._id, "file": name, **entries})

    def _complete(self) -> None:
        """Says what is in all files of this folder, and gives it its name."""
        names = sorted(path.name for path in self._place.glob("*.pt"))
        write_text(self._place / MANIFEST, json.dumps(self._manifest(names), indent=2) + "\n")
        sync_folder(self._place)
        self._place.rename(self.path)
        sync_folder(self._folder)

    def _manifest(self, files: list[str]) -> dict[str, Any]:
        engine = self._engine
        return {
            "format": FORMAT,
            "grawa": __version__,
            "torch": torch.__version__,
            "id": self._id,
            "saved": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "round": engine.round,
            "step": engine.step,
            **self._layout.counts(),
            "strategy": described(engine.plan.strategy),
            "schedule": described(engine.plan.schedule),
            "files": {name: self._layout.words(name) for name in files},
        }


def _cut_shared(state: dict[str, Any]) -> list[Any]:
    """Takes out of a state what is the same on every process."""
    return [fragment.pop("state") for fragment in state["runner"]["fragments"]]
