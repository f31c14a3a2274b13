"""Text files that are written completely or not at all, and read without trust."""

import json
import tomllib
from pathlib import Path
from typing import Any

from grawa.errors import UserError
from grawa.saving.whole import replacing


def write_text(path: Path, text: str) -> None:
    """Writes a text file."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_line(line: str) -> dict[str, Any] | None:
    """The object in a line of a JSONL file, or `None` if the line is incomplete."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if the file is missing or broken."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entry if isinstance(entry, dict) else {}


def read_toml(path: Path) -> dict[str, Any]:
    """Reads a TOML file.

    Returns:
        The table in it.

    Raises:
        UserError: if the file is missing or broken.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read: {error}") from None
