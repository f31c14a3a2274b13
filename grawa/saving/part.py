"""One process's part of a checkpoint: a file, and its checksum beside it."""

import hashlib
import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any, cast

import torch

from grawa.errors import UserError
from grawa.saving.whole import replacing


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged or of something else; it has been left as it is."""


class ForeignError(CheckpointError):
    """It is not damaged, but of something else; so are those before it."""


def write_part(path: Path, state: dict[str, Any]) -> None:
    """Writes a file and its checksum, each completely or not at all.

    Args:
        path: the file, `process-0.pt` say; its folder must exist.
        state: plain values and tensors.

    It raises `OSError`, for example if the disk is full.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        hashed = _Hashed(file)
        try:
            torch.save(state, cast(IO[bytes], hashed))
        except RuntimeError as error:
            raise hashed.error or error from error
    seal(path, hashed.digest.hexdigest())


def seal(path: Path, digest: str) -> None:
    """Writes a file's checksum beside it, as `sha256sum` prints it.

    Args:
        path: the file.
        digest: its SHA-256, in hexadecimal digits.
    """
    with replacing(_checksum(path)) as temporary:
        temporary.write_text(_line(path, digest), encoding="ascii")


def check(path: Path) -> None:
    """Refuses a file that is not the one whose checksum is beside it.

    Args:
        path: the file.

    Raises:
        CheckpointError: if the file or its checksum is missing or damaged.
    """
    for each in (path, _checksum(path)):
        if not each.is_file():  # a pipe or a device might never end
            raise CheckpointError(f"{each} is missing")
    try:
        wanted = _checksum(path).read_bytes()
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{error.filename or path} can't be read: {error.strerror}") from None
    if wanted != _line(path, found).encode():
        raise CheckpointError(f"{path} is damaged: its checksum is not the one it was saved with")


def read_part(path: Path) -> dict[str, Any]:
    """Reads what `write_part` wrote; never executes anything that is in it.

    Returns:
        The state, with all tensors on the CPU.

    Raises:
        CheckpointError: if the file or its checksum is missing or damaged.
    """
    check(path)
    state, problem = _loaded(path)
    if not isinstance(state, dict):
        what = problem or f"it holds a {type(state).__name__}"
        raise CheckpointError(f"{path} is not a checkpoint's file: {what}")
    return state


def _loaded(path: Path) -> tuple[object, str]:
    """What is in a file, or why it can't be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about files that it did not write
            return torch.load(path, map_location="cpu", weights_only=True), ""
    except (RuntimeError, EOFError, ValueError, LookupError, OSError, UnpicklingError) as error:
        return None, next(iter(str(error).splitlines()), type(error).__name__)


def _line(path: Path, digest: str) -> str:
    return f"{digest}  {path.name}\n"


def _checksum(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


class _Hashed:
    """A file that is written from the start to the end, and hashed on the way."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            written = self._file.write(data)
        except OSError as error:
            self.error = error  # torch would report that something failed, but not what
            raise
        self.digest.update(data)
        return written

    def flush(self) -> None:
        self._file.flush()
