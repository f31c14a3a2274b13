"""Reads files of records, and refuses by name what has another shape than it should."""

import json
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from grawa.errors import UserError
from grawa.lab.files import read_bytes
from grawa.lab.shapes import WHOLE, Shape


class Lines(NamedTuple):
    """The lines of a JSONL file.

    Attributes:
        entries: of the lines that are whole.
        kept: these lines.
        incomplete: the number of lines that are not JSON, as the last one is after a crash.
        damaged: for each line of JSON that has another shape, its number and what is wrong with it.
    """

    entries: list[dict[str, Any]]
    kept: list[str]
    incomplete: int
    damaged: list[str]


def damage_notices(damaged: Sequence[str], file: str) -> list[str]:
    """A sentence on damaged lines of a file, if there are any."""
    if not damaged:
        return []
    count = f"{len(damaged)} lines of {file} are" if len(damaged) > 1 else f"1 line of {file} is"
    return [f"{count} damaged and left out: {damaged[0]}."]


def read_lines(path: Path, shape: Shape) -> Lines:
    """Reads a JSONL file; lines that are cut or have another shape are left out, and counted.

    Args:
        path: the file; one that is missing has no lines.
        shape: of every line.

    Returns:
        The lines; a `UserError` if it is no file, or can't be read.
    """
    if not path.exists() and not path.is_symlink():
        return Lines([], [], 0, [])
    entries: list[dict[str, Any]] = []
    kept, damaged = [], []
    text = read_bytes(path).decode("utf-8", errors="replace")
    *lines, rest = text.split("\n")  # what follows the last line's end was cut
    incomplete = 1 if rest else 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = _parse(line)
        except ValueError:
            incomplete += 1
            continue
        complaint = shape(entry, WHOLE)
        if complaint or not isinstance(entry, dict):
            damaged.append(f"line {number}: {complaint or 'it must be a table'}")
            continue
        entries.append(entry)
        kept.append(line)
    return Lines(entries, kept, incomplete, damaged)


class GrowingLines:
    """The lines of a JSONL file that other processes add to, or put another file in place of.

    Args:
        path: the file, which need not be there yet.
        shape: of every line; those of another shape are left out.
    """

    def __init__(self, path: Path, shape: Shape) -> None:
        self._path, self._shape = path, shape
        self._inode, self._offset = -1, 0

    def read(self, *, mend: bool = False) -> tuple[bool, list[dict[str, Any]]]:
        """Reads what is new.

        Args:
            mend: whether a line that a dead writer has left incomplete is removed; only the process
                whose turn it is to write may do that.

        Returns:
            Whether it is another file than before, which was read from its beginning; and the
            lines.
        """
        try:
            with self._path.open("r+b" if mend else "rb") as file:
                found = os.fstat(file.fileno())
                is_another = found.st_ino != self._inode or found.st_size < self._offset
                if is_another:
                    self._inode, self._offset = found.st_ino, 0
                file.seek(self._offset)
                new = file.read()
                whole = new[: new.rfind(b"\n") + 1]
                if mend and len(whole) < len(new):
                    file.truncate(self._offset + len(whole))
        except FileNotFoundError:
            return False, []
        self._offset += len(whole)
        entries = (self._entry(line) for line in whole.split(b"\n"))
        return is_another, [entry for entry in entries if entry is not None]

    def _entry(self, line: bytes) -> dict[str, Any] | None:
        try:
            entry = _parse(line.decode("utf-8"))
        except ValueError:
            return None
        is_sound = isinstance(entry, dict) and self._shape(entry, WHOLE) is None
        return entry if is_sound else None  # type: ignore[return-value]


def read_record(path: Path, shape: Shape) -> dict[str, Any]:
    """Reads a JSON file.

    Args:
        path: the file.
        shape: of the table in it.

    Returns:
        The table.

    Raises:
        UserError: if it is missing, can't be read, or has another shape.
    """
    content = read_bytes(path)
    try:
        entry = _parse(content.decode("utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged: it is not JSON ({_first_line(error)})") from None
    complaint = shape(entry, WHOLE)
    if complaint or not isinstance(entry, dict):
        raise UserError(f"{path} is damaged: {complaint or 'it has no table'}")
    return entry


def read_toml(path: Path) -> dict[str, Any]:
    """Reads a TOML file.

    Returns:
        The table in it.

    Raises:
        UserError: if the file is missing or broken.
    """
    content = read_bytes(path)
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} can't be read: it is not TOML ({_first_line(error)})") from None


def _parse(text: str) -> object:
    """The value in a JSON text; raises `ValueError` for all else, also if it is too deep."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its lists are nested too deeply") from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
