"""Medians of times, on which all processes agree."""

import statistics
import time
from collections.abc import Callable

import torch

from grawa.lab.together import everyones
from grawa.math.host import wait_for

LEAST_TIMES = 5
MOST_TIMES = 200


def agreed(seconds: float) -> float:
    """The longest time of all processes; collective."""
    return max(everyones(seconds, "compare times"))


def median_seconds(function: Callable[[], object], least_seconds: float) -> float:
    """Median seconds of several calls, after one that is not counted.

    Args:
        function: the function to time.
        least_seconds: for how long it is repeated; at least five times.

    Returns:
        Seconds.
    """
    function()
    times: list[float] = []
    while len(times) < LEAST_TIMES or (sum(times) < least_seconds and len(times) < MOST_TIMES):
        times.append(_seconds_of(function))
    return statistics.median(times)


def agreed_median(
    function: Callable[[], object],
    least_seconds: float,
    device: torch.device,
    before: Callable[[], object],
) -> float:
    """Median seconds of calls that all processes make together; the slowest counts for each call.

    Args:
        function: the function to time; a first call is not counted.
        least_seconds: for how long it is repeated, about; at least five times.
        device: that must have finished what it was given, before the clock is read.
        before: is called before each, outside the time.

    Returns:
        Seconds; the same on every process.
    """
    _seconds_of_all(function, 1, device, before)
    (took,) = _seconds_of_all(function, 1, device, before)
    times = min(max(least_seconds / max(took, 1e-9), LEAST_TIMES), MOST_TIMES)
    return statistics.median(_seconds_of_all(function, int(times), device, before))


def _seconds_of_all(
    function: Callable[[], object],
    times: int,
    device: torch.device,
    before: Callable[[], object],
) -> list[float]:
    """Of each call, the seconds of the slowest process."""
    own = []
    for _ in range(times):
        before()
        own.append(_seconds_of(function, device))
    return [max(each) for each in zip(*everyones(own, "compare times"), strict=True)]


def median_of(function: Callable[[], object], times: int, device: torch.device) -> float:
    """Median seconds of so many calls, which processes make together.

    Args:
        function: the function to time.
        times: that it is called; the same on every process.
        device: that must have finished what it was given, before the clock is read.

    Returns:
        Seconds.
    """
    return statistics.median(_seconds_of(function, device) for _ in range(times))


def _seconds_of(function: Callable[[], object], device: torch.device | None = None) -> float:
    start = time.perf_counter()
    function()
    if device is not None:
        wait_for(device)
    return time.perf_counter() - start
