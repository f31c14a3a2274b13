"""Files of plain values and tensors, and of text, with their checksums beside them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from grawa.errors import UserError
from grawa.saving.part import CheckpointError, check, seal, write_part
from grawa.saving.whole import replacing

_MOST_BYTES = 2**20
"""Of a text; ours are far smaller."""


def write_tensors(path: Path, entries: dict[str, Any]) -> None:
    """Writes plain values and tensors, for `grawa.saving.read_part`.

    Args:
        path: of the file.
        entries: what is to be read again.

    Raises:
        UserError: naming the first value that could not be read without running code.
    """
    write_part(path, entries)
    try:  # mapped, so that no tensor is read
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (UnpicklingError, RuntimeError) as error:
        raise UserError(_unreadable(entries, error)) from None


def write_text(path: Path, text: str) -> None:
    """Writes a text file and its checksum."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    seal(path, hashlib.sha256(text.encode()).hexdigest())


def read_text(path: Path) -> str:
    """The text in a file that `write_text` wrote.

    Returns:
        It.

    Raises:
        CheckpointError: if the file is missing, damaged or something else.
    """
    check(path)
    data = path.read_bytes()[:_MOST_BYTES]
    try:
        return data.decode()
    except ValueError:
        raise CheckpointError(f"{path} is damaged: it is no text") from None


def _unreadable(entries: Mapping[str, Any], error: Exception) -> str:
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
