"""Files with checksums, which are read without running code from them."""

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from io import RawIOBase
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any, cast

import torch

from grawa.errors import UserError

SUMS = "SHA256SUMS"
"""The name of the file with the checksums of a folder's other files, for `sha256sum --check`."""

_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9._-]+)")
_BLOCK = 2**20
"""Bytes that are read at once."""


class _Summed(RawIOBase):
    """A file in writing that adds up its checksum.

    An error is kept for `finish`: raised inside `torch.save`, it would come out as another one.
    """

    def __init__(self, path: Path) -> None:
        self._sum = hashlib.sha256()
        self._file = path.open("xb")
        self._error: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        if self._error is None:
            try:
                self._file.write(data)
                self._sum.update(data)
            except OSError as error:
                self._error = error
        return len(data)

    def finish(self) -> str:
        """Brings the data to the disk; returns the checksum, or raises the first error."""
        try:
            if self._error is not None:
                raise self._error
            self._file.flush()
            os.fsync(self._file.fileno())
        finally:
            self._file.close()
        return self._sum.hexdigest()


def write(path: Path, content: Callable[[_Summed], object]) -> str:
    """Writes a new file.

    Args:
        path: of the file, which does not exist.
        content: writes to the file that it is given.

    Returns:
        The checksum, when the file is on the disk.
    """
    file = _Summed(path)
    try:
        content(file)
    finally:
        found = file.finish()
    return found


def write_text(path: Path, text: str) -> str:
    """Writes a new text file; returns its checksum."""
    return write(path, lambda file: file.write(text.encode()))


def write_tensors(path: Path, entries: Mapping[str, Any]) -> str:
    """Writes plain values and tensors.

    Args:
        path: of the file, which does not exist.
        entries: what `read_tensors` will return.

    Returns:
        The checksum.

    Raises:
        UserError: naming the first value that could not be read without running code.
    """
    found = write(path, lambda file: torch.save(entries, cast(IO[bytes], file)))
    try:  # mapped, so that no tensor is read
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (UnpicklingError, RuntimeError) as error:
        raise UserError(_unreadable(entries, error)) from None
    return found


def read_tensors(path: Path) -> dict[str, Any]:
    """Reads what `write_tensors` wrote, without running code from it.

    Returns:
        The entries, on the CPU.

    Raises:
        UserError: if it is something else.
    """
    try:
        entries = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a strange file leads to
        raise UserError(f"{path} can't be read ({_first_line(error)})") from None
    if not isinstance(entries, dict):
        raise UserError(f"{path} can't be read (it is not a dict)")
    return entries


def sums_text(sums: Mapping[str, str]) -> str:
    """Checksums by file name, in the format of `sha256sum`."""
    return "".join(f"{found}  {name}\n" for name, found in sums.items())


def read_sums(path: Path) -> dict[str, str]:
    """Checksums by file name.

    Returns:
        What `sums_text` was given.

    Raises:
        UserError: if the file is missing or broken.
    """
    lines = [_LINE.fullmatch(line) for line in read_text(path).splitlines()]
    if not lines or None in lines:
        raise UserError(f"{path} is damaged: it is not a list of checksums")
    return {line[2]: line[1] for line in lines if line}


def read_text(path: Path) -> str:
    """The text in a file.

    Returns:
        It.

    Raises:
        UserError: if the file is missing or broken.
    """
    try:
        if path.stat().st_size > _BLOCK or not path.is_file():
            raise UserError(f"{path} is damaged: it is too large, or no plain file")
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read ({_first_line(error)})") from None


def check(path: Path, sums: Mapping[str, str]) -> None:
    """Refuses a file that is missing or has changed since it was written.

    Args:
        path: of the file.
        sums: the checksums in its folder.

    Raises:
        UserError: naming the file.
    """
    if path.name not in sums:
        raise UserError(f"{path} is not listed in {SUMS}")
    found = hashlib.sha256()
    try:
        if not path.is_file():  # a pipe or a device might never end
            raise UserError(f"{path} is missing")
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                found.update(block)
    except OSError as error:
        raise UserError(f"{path} can't be read ({_first_line(error)})") from None
    if found.hexdigest() != sums[path.name]:
        raise UserError(f"{path} is damaged: its checksum is not the one in {SUMS}")


def sync_folder(folder: Path) -> None:
    """Brings the names in a folder to the disk."""
    place = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)


def _unreadable(entries: object, error: Exception) -> str:
    path, value = _culprit(entries)
    if path is None:
        return f"this can't be saved so that it is read without running code ({error})"
    return (
        f"{path} is a {type(value).__module__}.{type(value).__qualname__}, which can't be read "
        "without running code: save plain values, tensors, and lists, tuples and dicts of them"
    )


def _culprit(value: object, path: str = "") -> tuple[str | None, object]:
    """The first value inside that is neither plain nor a tensor, with its path."""
    if type(value) in (dict, list, tuple):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)  # type: ignore[arg-type]
        for key, inner in pairs:
            found = _culprit(inner, f"{path}[{key!r}]" if path else str(key))
            if found[0] is not None:
                return found
        return None, None
    plain = value is None or type(value) in (bool, int, float, complex, str, bytes)
    return (None, None) if plain or isinstance(value, torch.Tensor) else (path, value)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
