"""Text files that are written completely or not at all, and read without trust."""

import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from grawa.errors import UserError
from grawa.saving.whole import beside, is_device, replacing

MOST_BYTES = 2**31
"""Of a file that is read whole: far more than the events of a run of months."""


def check_file(path: Path) -> None:
    """Refuses a path at which no file can be written, before work is done for it.

    Args:
        path: of a file that will be written, in a folder that exists.

    Raises:
        UserError: naming the path and the reason.
    """
    if is_folder(path):
        raise UserError(f"can't write {path}: it is a folder; name a file in it")
    if is_there(path) and is_device(path):
        raise UserError(f"can't write {path}: it is a device or a pipe; name a file")
    try:
        temporary = beside(path)
        temporary.touch()
        temporary.unlink()
    except (OSError, ValueError) as error:  # a ValueError: a null character in the path
        raise UserError(f"can't write {path}: {cause_of(error)}") from None


def is_there(path: Path) -> bool:
    """Whether there is anything, also a broken link; not if the path itself is impossible."""
    try:
        return os.path.lexists(path)
    except (OSError, ValueError):
        return False


def is_file(path: Path) -> bool:
    """Whether there is a regular file; not if the path itself is impossible."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long a name, or one with a null character
        return False


def is_folder(path: Path) -> bool:
    """Whether there is a folder; not if the path itself is impossible."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def make_folder(path: Path) -> Path:
    """Makes a folder for files, and those above it, if it is not there.

    Args:
        path: the folder.

    Returns:
        The same path.

    Raises:
        UserError: if it can't be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise UserError(f"can't make the folder {path}: {cause_of(error)}") from None
    return path


def write_text(path: Path, text: str) -> None:
    """Writes a text file."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """Reads a whole file; never waits, as a pipe would make it, and never without end.

    Args:
        path: the file.
        most: bytes that it may have.

    Returns:
        Its content.

    Raises:
        UserError: if it is missing, no regular file, too large, or can't be read.
    """
    with opened(path) as file:
        try:
            content = file.read(most + 1)
        except OSError as error:
            raise UserError(f"{path} can't be read: {cause_of(error)}") from None
    if len(content) > most:
        raise UserError(f"{path} is larger than {most / 1e6:,.0f} MB, which it can't rightly be")
    return content


@contextmanager
def opened(path: Path) -> Generator[BinaryIO]:
    """A regular file, to read from.

    Yields:
        The file.

    Raises:
        UserError: if it is missing, no regular file, or can't be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:  # a ValueError: a null character in the path
        raise UserError(f"{path} can't be read: {cause_of(error)}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"{path} can't be read: it is no regular file")
    with open(descriptor, "rb") as file:
        yield file


def cause_of(error: Exception) -> str:
    """Why a file can't be read or written, in a few words."""
    return (isinstance(error, OSError) and error.strerror) or str(error)
