"""Faults that another process asks for while a run goes on, as `grawa chaos` does."""

import mmap
import os
from enum import IntEnum
from pathlib import Path

from grawa.errors import UserError

VARIABLE = "GRAWA_FAULTS"
"""The environment variable that names the file with what is asked: a byte for each worker."""


class Asked(IntEnum):
    """What is asked of a worker."""

    NOTHING = 0
    NAN = 1
    """Parameters become NaN before the next local step, once."""
    WRONG_LABELS = 2
    """All labels are wrong, as long as it is asked."""


class Requests:
    """What is asked of all workers, in a file that processes share.

    Args:
        path: the file; it must exist.

    Raises:
        UserError: if it can't be used.
    """

    def __init__(self, path: Path) -> None:
        try:
            with path.open("r+b") as file:
                self._bytes = mmap.mmap(file.fileno(), 0)
        except (OSError, ValueError) as error:
            raise UserError(f"{VARIABLE}={path} can't be used: {error}") from None

    @classmethod
    def make(cls, path: Path, workers: int) -> "Requests":
        """Makes the file, in which nothing is asked yet."""
        path.write_bytes(bytes(workers))
        return cls(path)

    @classmethod
    def named(cls) -> "Requests | None":
        """Those that the environment names, if it does."""
        path = os.environ.get(VARIABLE)
        return None if path is None else cls(Path(path))

    def ask(self, worker: int, what: Asked) -> None:
        """Asks something of a worker."""
        self._bytes[worker] = what

    def of(self, worker: int) -> Asked:
        """What is asked of a worker; nothing of one that the file has no byte for."""
        return Asked(self._bytes[worker]) if worker < len(self._bytes) else Asked.NOTHING

    def take(self, worker: int) -> Asked:
        """What is asked of a worker for its next step; what happens once is then asked no more."""
        found = self.of(worker)
        if found is Asked.NAN:
            self.ask(worker, Asked.NOTHING)
        return found
