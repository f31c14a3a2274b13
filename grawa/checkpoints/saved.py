"""What was saved, each part of it read once, and what the job was like that saved it."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from grawa.checkpoints.entries import Entries
from grawa.checkpoints.layout import Layout
from grawa.checkpoints.manifest import read_manifest
from grawa.saving.part import CheckpointError, ForeignError, read_part


class Saved:
    """A checkpoint, wherever it is.

    Args:
        manifest: what it is.
        here: the layout of the job that restores it.
        read: returns the entries of a file by its name; `CheckpointError` if they are damaged.
        where: it is, for errors.

    Attributes:
        manifest: what it is.
        layout: of the job that saved it.

    Raises:
        CheckpointError: if it is damaged.
        ForeignError: if its workers consist of more or fewer processes.
    """

    def __init__(
        self, manifest: Entries, here: Layout, read: Callable[[str], Entries], where: str
    ) -> None:
        self.manifest, self._here, self._read = manifest, here, cache(read)
        layout = here.was(manifest)
        if layout is None:
            raise CheckpointError(f"{where} is damaged: its numbers of workers can't be")
        if layout.parts != here.parts:
            raise ForeignError(
                f"each of its workers consists of {layout.parts} processes, and here of "
                f"{here.parts}: start as many of each worker as then"
            )
        self.layout = layout

    @property
    def is_alike(self) -> bool:
        """Whether the job that restores it has the same workers on the same processes."""
        return self.layout == self._here

    def worker(self, worker: int) -> Entries:
        """The model and optimizers of a worker, and its extra."""
        return self._read(self.layout.worker_file(worker))

    def process(self, process: int) -> Entries:
        """What belongs to a process."""
        return self._read(self.layout.process_file(process))

    def shared(self) -> Entries:
        """What is the same on all workers."""
        return self._read(self.layout.shared_file)


def saved_in(path: Path, here: Layout) -> Saved:
    """A checkpoint on the disk.

    Args:
        path: of its folder.
        here: the layout of the job that restores it.

    Returns:
        It; `CheckpointError` if it is damaged, or of another version.
    """
    manifest = read_manifest(path)
    return Saved(manifest, here, partial(_entries, path, manifest.get("id")), str(path))


def _entries(path: Path, id: object, name: str) -> Entries:
    entries = read_part(path / name)
    if (entries.pop("id", None), entries.pop("file", None)) != (id, name):
        raise CheckpointError(f"{path / name} does not belong to this checkpoint")
    return entries


def dict_in(entries: Any, name: str) -> dict[str, Any]:
    """The dict of this name in another one; `CheckpointError` if there is none."""
    found = entries.get(name) if isinstance(entries, dict) else None
    if not isinstance(found, dict):
        raise CheckpointError(f"its {name} is damaged")
    return found
