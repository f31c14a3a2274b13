"""The files of one checkpoint, each read once, and what the job was like that saved it."""

from functools import cache
from pathlib import Path
from typing import Any

from grawa.checkpoints.layout import Layout
from grawa.checkpoints.manifest import read_manifest
from grawa.saving.part import CheckpointError, ForeignError, read_part


class Saved:
    """A checkpoint on the disk.

    Args:
        path: of its folder.
        here: the layout of the job that restores it.

    Attributes:
        manifest: what it is.
        layout: of the job that saved it.

    Raises:
        CheckpointError: if it is damaged, or of another version.
    """

    def __init__(self, path: Path, here: Layout) -> None:
        self.path, self._here = path, here
        self.manifest = read_manifest(path)
        layout = here.was(self.manifest)
        if layout is None:
            raise CheckpointError(f"{path} is damaged: its numbers of workers can't be")
        if layout.parts != here.parts:
            raise ForeignError(
                f"each of its workers consists of {layout.parts} processes, and here of "
                f"{here.parts}: start as many of each worker as then"
            )
        self.layout = layout
        self.worker = cache(self._worker)
        self.process = cache(self._process)
        self.shared = cache(self._shared)

    @property
    def is_alike(self) -> bool:
        """Whether the job that restores it has the same workers on the same processes."""
        return self.layout == self._here

    def _worker(self, worker: int) -> dict[str, Any]:
        """The model and optimizers of a worker, and its extra."""
        return self._entries(self.layout.worker_file(worker))

    def _process(self, process: int) -> dict[str, Any]:
        """What belongs to a process."""
        return self._entries(self.layout.process_file(process))

    def _shared(self) -> dict[str, Any]:
        """What is the same on all workers."""
        return self._entries(self.layout.shared_file)

    def _entries(self, name: str) -> dict[str, Any]:
        path = self.path / name
        entries = read_part(path)
        if (entries.pop("id", None), entries.pop("file", None)) != (self.manifest["id"], name):
            raise CheckpointError(f"{path} does not belong to this checkpoint")
        return entries


def dict_in(entries: Any, name: str) -> dict[str, Any]:
    """The dict of this name in another one; `CheckpointError` if there is none."""
    found = entries.get(name) if isinstance(entries, dict) else None
    if not isinstance(found, dict):
        raise CheckpointError(f"its {name} is damaged")
    return found
