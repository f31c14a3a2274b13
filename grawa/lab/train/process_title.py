"""Lets `ps` and /proc show of a forked process its own command and variables, not its parent's.

Linux shows the memory where both stood when the program began. So the parent has to begin with
enough room there, which a fork overwrites, as PostgreSQL and setproctitle do.
"""

import ctypes
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

_ROOM = "GRAWA_ROOM"
"""A variable whose place others take."""

_PLACES = slice(45, 49)
"""Of the fields of /proc/self/stat that follow the name: the addresses at which the command line
begins and ends, and the environment."""


def room_for(words: Sequence[str]) -> str:
    """An argument with which a command line takes as much memory as these words."""
    return " " * len("\0".join(words).encode())


def room_for_variables(size: int = 500) -> dict[str, str]:
    """A variable with which an environment has room for others.

    Args:
        size: bytes of all together.

    Returns:
        It.
    """
    return {_ROOM: "." * size}


def show(words: Sequence[str], variables: Mapping[str, str]) -> None:
    """Shows a command line and variables, if there is room; they are not set by it.

    Args:
        words: the command line.
        variables: which.
    """
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    begins, ends, of_variables, last = map(int, fields[_PLACES])
    _put(begins, ends - begins, words)
    known = ctypes.string_at(of_variables, last - of_variables)
    room = f"{_ROOM}={os.environ.pop(_ROOM, '')}".encode()
    at = known.find(room)
    if at >= 0:
        _put(of_variables + at, len(room), [f"{k}={value}" for k, value in variables.items()])


def _put(address: int, size: int, texts: Sequence[str]) -> None:
    """Writes texts, each with a 0 at its end, over memory of this size, if they fit."""
    written = b"".join(text.encode() + b"\0" for text in texts)
    if len(written) <= size:
        ctypes.memmove(address, written.ljust(size, b"\0"), size)
