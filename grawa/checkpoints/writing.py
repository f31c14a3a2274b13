"""The stages in which the files of a checkpoint are written."""

import json
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from grawa.checkpoints.contents import copied
from grawa.checkpoints.entries import entries_of
from grawa.checkpoints.extras import Extras
from grawa.checkpoints.files import write_tensors, write_text
from grawa.checkpoints.layout import Layout
from grawa.checkpoints.manifest import manifest_of
from grawa.checkpoints.places import MANIFEST, building, checkpoints, name_of, next_number, tidy
from grawa.errors import UserError
from grawa.rounds.agreement import Agreement
from grawa.rounds.engine import Engine
from grawa.saving.whole import sync_folder


class Writing:
    """A checkpoint in writing.

    Args:
        engine: with the hosted workers.
        layout: of the checkpoint.
        folder: for checkpoints.
        number: of this one.
        id: of this one, in all its files.
        keep: how many of the last ones stay.

    Attributes:
        path: of this one, when it is complete.
        failed: what is said if it can't be written.
    """

    def __init__(
        self, engine: Engine, layout: Layout, folder: Path, number: int, id: str, keep: int
    ) -> None:
        self._engine, self._layout, self._folder = engine, layout, folder
        self._number, self._id, self._keep = number, id, keep
        name = name_of(number, engine.round)
        self.path, self._place = folder / name, building(folder, name)
        newest = max(checkpoints(folder).items(), default=(0, None))[1]
        safe = f"{newest} is complete and untouched" if newest else "there is none before it"
        self.failed = f"the checkpoint {self.path} could not be saved ({safe})"

    @classmethod
    def agreed(cls, engine: Engine, agreement: Agreement, folder: Path, keep: int) -> "Writing":
        """One of the same number on every process, or an error on all; collective."""
        failure, line = None, ""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            line = json.dumps([next_number(folder), secrets.token_hex(8)])
        except (OSError, UserError) as error:
            failure = failure_of(f"no checkpoint can be saved in {folder}", error)
        lines = [json.loads(each) for each in agreement.settle(failure, line)]
        number = max(number for number, _ in lines)
        return cls(engine, Layout.of(engine, agreement), folder, number, lines[0][1], keep)

    def stages(self, extras: Extras, *, copy: bool) -> list[Callable[[], None]]:
        """What is to be done, one after another, each when all processes have done the one before.

        Args:
            extras: what the user adds.
            copy: whether tensors are copied now, since training goes on meanwhile.

        Returns:
            They use neither the workers nor messages, and can run in a thread.
        """
        own, shared = entries_of(self._engine, self._layout, extras)
        if copy:
            own, shared = copied(own), copied(shared)
        about = manifest_of(self._engine, self._layout, self._id, extras)

        def write_own() -> None:
            self._place.mkdir(exist_ok=True)
            for name, entries in own.items():
                self._write(name, entries)

        def write_shared() -> None:
            if self._is_first_of_part():
                self._write(self._layout.shared_file, shared)

        def complete() -> None:
            if self._is_first():
                self._complete(about)

        return [write_own, write_shared, complete]

    def abandon(self) -> None:
        """Removes what was written, because it will never be complete."""
        shutil.rmtree(self._place, ignore_errors=True)

    def _is_first(self) -> bool:
        """Whether no earlier process writes to the same folder, which hosts may not share."""
        return not any(self._is_here(p) for p in range(self._layout.process))

    def _is_first_of_part(self) -> bool:
        earlier = range(self._layout.part, self._layout.process, self._layout.parts)
        return not any(self._is_here(process) for process in earlier)

    def _is_here(self, process: int) -> bool:
        name = self._layout.process_file(process)
        return any((place / name).exists() for place in (self._place, self.path))

    def _write(self, name: str, entries: dict[str, Any]) -> None:
        write_tensors(self._place / name, {"id": self._id, "file": name, **entries})

    def _complete(self, about: dict[str, Any]) -> None:
        """Says what is in all files of this folder, and gives it its name; removes old ones."""
        names = sorted(path.name for path in self._place.glob("*.pt"))
        manifest = {**about, "files": {name: self._layout.words(name) for name in names}}
        write_text(self._place / MANIFEST, json.dumps(manifest, indent=2) + "\n")
        sync_folder(self._place)
        self._place.rename(self.path)
        sync_folder(self._folder)
        with suppress(OSError):  # the checkpoint is complete; the next save tries again
            tidy(self._folder, self._keep, self._number)


def failure_of(what: str, error: Exception) -> UserError:
    """An error in one line: what could not be done, and why."""
    if isinstance(error, UserError):
        return UserError(f"{what}: {error}")
    why = error.strerror if isinstance(error, OSError) else None
    return UserError(f"{what}: {why or (str(error).splitlines() or [type(error).__name__])[0]}")
