"""Shifts the time of day that a Python process sees by what a file says.

It runs before anything else in the process, which is why it needs the standard library alone.
`time.time`, `time.time_ns` and `time.clock_gettime(CLOCK_REALTIME)` are shifted; `datetime.now()`,
the time stamps of files, and what C++ code sees are not, and neither are monotonic clocks, which no
step of a machine's clock moves.
"""

import mmap
import os
import struct
import time

VARIABLE = "GRAWA_CLOCK"
"""The environment variable that names the file: one float64, in seconds."""

_FORMAT = struct.Struct("d")


def install(path: str) -> None:
    """Lets this process's time of day follow the file."""
    with open(path, "rb") as file:
        content = mmap.mmap(file.fileno(), _FORMAT.size, access=mmap.ACCESS_READ)
    true, true_ns, true_gettime = time.time, time.time_ns, time.clock_gettime

    def shift() -> float:
        return float(_FORMAT.unpack_from(content)[0])

    def gettime(clock: int, /) -> float:
        return true_gettime(clock) + (shift() if clock == time.CLOCK_REALTIME else 0.0)

    time.time = lambda: true() + shift()
    time.time_ns = lambda: true_ns() + int(shift() * 1e9)
    time.clock_gettime = gettime


def put(path: str, seconds: float) -> None:
    """Sets by how much the clocks that follow this file are wrong."""
    content = _FORMAT.pack(seconds)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.pwrite(descriptor, content, 0)
    finally:
        os.close(descriptor)


if VARIABLE in os.environ:
    install(os.environ[VARIABLE])
