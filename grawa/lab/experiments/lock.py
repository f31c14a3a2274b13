"""One process at a time writes a run's folder."""

import fcntl
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from grawa.errors import UserError

_NAME = ".lock"


@contextmanager
def locked(folder: Path, worker: int | None = None) -> Generator[None]:
    """Holds a folder's lock, which the system takes back when this process ends, however it ends.

    Args:
        folder: of the run.
        worker: the elastic worker that writes it in turn with others; each has a lock of its own.

    Yields:
        Nothing.

    Raises:
        UserError: if another process holds it.
    """
    path = folder / (_NAME if worker is None else f"{_NAME}-{worker}")
    # Opened without "w", which would wipe out who holds it.
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read(200).strip() or "another process"
            raise UserError(
                f"{folder} is being written by {holder}: wait until it has ended, or end it"
            ) from None
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def check_free(folder: Path) -> None:
    """Raises a `UserError` if another process holds a folder's lock, or that of a worker."""
    names = [path.name.removeprefix(f"{_NAME}-") for path in folder.glob(f"{_NAME}-*")]
    for worker in (None, *(int(name) for name in names if name.isdecimal())):
        with locked(folder, worker):
            pass
