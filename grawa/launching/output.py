"""What started processes print, where their own standard output does not reach the user."""

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True)
class Form:
    """What a stream is like, for those who print to it.

    Args:
        is_terminal: whether it is one.
        redraws: whether a line is drawn anew after a carriage return, as in a notebook, too.
    """

    is_terminal: bool
    redraws: bool

    @classmethod
    def of(cls, stream: Any) -> Self:
        """Of a stream."""
        if isinstance(stream, Forwarded):
            return cls(stream.form.is_terminal, stream.form.redraws)
        is_terminal = hasattr(stream, "isatty") and bool(stream.isatty())
        return cls(is_terminal, is_terminal or type(stream).__module__.startswith("ipykernel."))


class Forwarded(io.TextIOBase):
    """Stands in a process for a stream of the process that has started it, and sends it lines.

    Args:
        send: called with a text.
        form: of that stream.
        descriptor: where processes print that are forked from this one.

    Attributes:
        form: of that stream.
    """

    def __init__(self, send: Callable[[str], None], form: Form, descriptor: int) -> None:
        self._send, self.form, self._descriptor = send, form, descriptor
        self._pid = os.getpid()
        self._kept = ""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """What is known of any text stream."""
        return "utf-8"

    def writable(self) -> bool:
        """Yes."""
        return True

    def isatty(self) -> bool:
        """Whether that stream is a terminal."""
        return self.form.is_terminal

    def fileno(self) -> int:
        """Where processes print that are forked from this one."""
        return self._descriptor

    def write(self, text: str) -> int:
        """Sends complete lines, and keeps what follows.

        Returns:
            The number of characters.
        """
        if os.getpid() != self._pid:
            os.write(self._descriptor, text.encode(errors="replace"))
            return len(text)
        lines, end, rest = (self._kept + text).rpartition("\n")
        self._kept = rest
        if end:
            self._send(lines + end)
        return len(text)

    def flush(self) -> None:
        """Sends what was kept."""
        if self._kept and os.getpid() == self._pid:
            kept, self._kept = self._kept, ""
            self._send(kept)


def show(text: str, stream: Any) -> None:
    """Prints a text, in escapes where the stream has no such characters, if there is a stream."""
    if stream is None:  # as in a process without a terminal
        return
    try:
        stream.write(text)
    except UnicodeEncodeError:
        stream.write(text.encode(stream.encoding, "backslashreplace").decode(stream.encoding))
    flush(stream)


def flush(stream: Any) -> None:
    """Prints what is kept in a stream, if there is one and it keeps anything."""
    if hasattr(stream, "flush"):
        stream.flush()
