"""Files that are written completely or not at all, also if the machine fails."""

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """A temporary file beside `path`, which replaces it if the body raises nothing.

    Yields:
        The temporary file's path, to write to.

    Raises:
        OSError: if it can't be written, or there is something else than a file, such as a device.
    """
    if is_device(path):
        raise OSError(errno.EINVAL, "it is a device or a pipe, not a file", str(path))
    temporary = beside(path)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.filename in (temporary, str(temporary)):
            error.filename = str(path)  # what the user knows
        raise
    finally:
        temporary.unlink(missing_ok=True)


def is_device(path: Path) -> bool:
    """Whether a device, a pipe or a socket is there, which must not be replaced by a file."""
    return path.exists() and not (path.is_file() or path.is_dir())


def beside(path: Path) -> Path:
    """A temporary file in the same folder, which another process does not use."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def sync_folder(path: Path) -> None:
    """Waits until the names in a folder are on the disk, where the system can tell."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
