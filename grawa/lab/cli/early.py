"""Ctrl-C while the command is still being imported: its end, without a traceback."""

import os
import signal
from contextlib import suppress
from types import FrameType

_CLEAN = b"\r\x1b[K\x1b[?25h"
"""Removes a line that moves in a terminal, and shows the cursor, which was hidden for it."""

_CODE = 128 + signal.SIGINT
"""What a shell reports of a process that Ctrl-C has ended."""


def end_at_interrupts() -> None:
    """Ends this process at Ctrl-C from now on; it stays ignored if it is, as under `nohup`."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_interrupts() -> None:
    """Undoes `end_at_interrupts`: from now on, Ctrl-C raises a `KeyboardInterrupt`."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:
    with suppress(OSError):
        if os.isatty(1):
            os.write(1, _CLEAN)
        os.write(2, b"grawa: interrupted; nothing was begun\n")
    os._exit(_CODE)
