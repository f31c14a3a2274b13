"""Output that can't be written ends no command."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from grawa.lab.report.letters import ERRORS, know_letters


class ForgivingStream:
    """A text stream that drops what can't be written, instead of raising.

    Letters that its encoding lacks are replaced by ASCII that looks alike.

    Args:
        stream: where to write.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None
        """Why output was lost, if it was."""
        if hasattr(stream, "reconfigure"):
            know_letters()
            stream.reconfigure(errors=ERRORS)

    def write(self, text: str) -> int:
        """Writes text.

        Returns:
            Its length.
        """
        with self._losing():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Writes what is buffered."""
        with self._losing():
            self._stream.flush()

    @contextmanager
    def _losing(self) -> Generator[None]:
        """Sends all further output nowhere if it can't be written, what is buffered too."""
        try:
            yield
        except OSError as error:
            self.error = self.error or error
            nowhere = os.open(os.devnull, os.O_WRONLY)
            with suppress(OSError):  # a stream without a descriptor keeps what it has
                os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def forgiving_output() -> Generator[ForgivingStream | None]:
    """Makes standard output and standard error forgiving while the block runs.

    Yields:
        Standard output, unless it is closed.
    """
    _open_standard_descriptors()
    before = sys.stdout, sys.stderr
    out, err = (None if stream is None else ForgivingStream(stream) for stream in before)
    sys.stdout, sys.stderr = out, err
    try:
        yield out
    finally:
        for stream in (out, err):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = before


def _open_standard_descriptors() -> None:
    """Fills closed ones, else a file that is opened later would become a process's output."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
