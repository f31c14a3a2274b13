"""A folder of checkpoints."""

import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grawa.errors import UserError
from grawa.saving.part import CheckpointError, read_part, write_part
from grawa.saving.whole import sync_folder

_NAME = re.compile(r"round-(\d{1,18})")


@dataclass(frozen=True)
class Checkpoints:
    """A folder of checkpoints, each a folder `round-0000000020` with one file for each process.

    Processes may share the folder, or have one of the same name on their own machine.

    Args:
        folder: the folder; made when the first checkpoint is written.
        keep: how many complete ones are kept, at least 1.
    """

    folder: Path
    keep: int = 3

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise UserError(f"at least 1 checkpoint must be kept, got {self.keep}")

    @staticmethod
    def round_of(name: str) -> int:
        """The round of a checkpoint's name; `CheckpointError` if it is not one."""
        found = _NAME.fullmatch(name)
        if found is None:
            raise CheckpointError(
                f"{name!r} is not a checkpoint's name, which is of the form round-0000000020"
            )
        return int(found[1])

    def path(self, round_number: int) -> Path:
        """The folder of a round's checkpoint, when it is complete."""
        return self.folder / f"round-{round_number:010d}"

    def rounds(self) -> list[int]:
        """The rounds of complete checkpoints, the oldest first."""
        names = (path.name for path in self.folder.glob("round-*") if path.is_dir())
        return sorted(int(name[6:]) for name in names if _NAME.fullmatch(name))

    def write(self, round_number: int, process: int, state: dict[str, Any]) -> None:
        """Writes a process's part of a checkpoint that is not complete yet; see `write_part`."""
        building = self._building(round_number)
        building.mkdir(parents=True, exist_ok=True)
        write_part(building / _part(process), state)

    def complete(self, round_number: int) -> None:
        """Gives a checkpoint its name, when all processes have written it; removes old ones.

        Every process calls it: where they share the folder, the first one does it.
        """
        building, final = self._building(round_number), self.path(round_number)
        if final.exists() and building.exists():
            self.set_aside(round_number)
        with suppress(FileNotFoundError):  # another process was first
            building.rename(final)
            sync_folder(self.folder)
        for old in self.rounds()[: -self.keep]:
            shutil.rmtree(self.path(old), ignore_errors=True)

    def read(self, round_number: int, process: int) -> dict[str, Any]:
        """Reads a process's part; see `read_part`."""
        return read_part(self.path(round_number) / _part(process))

    def set_aside(self, round_number: int) -> None:
        """Renames a checkpoint that can't be used to `round-0000000020.unused`."""
        path = self.path(round_number)
        aside = path.with_name(f"{path.name}.unused")
        shutil.rmtree(aside, ignore_errors=True)
        with suppress(FileNotFoundError):  # another process was first
            path.rename(aside)

    def clean(self) -> None:
        """Removes checkpoints that were never completed; not while others write."""
        for path in self.folder.glob(".round-*.tmp"):
            shutil.rmtree(path, ignore_errors=True)

    def _building(self, round_number: int) -> Path:
        return self.folder / f".{self.path(round_number).name}.tmp"


def _part(process: int) -> str:
    return f"process-{process}.pt"
