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
    function: Callable[[], object], least_seconds: float, device: torch.device
) -> float:
    """The longest of the processes' median seconds of calls that they make together; collective.

    Args:
        function: the function to time; a first call is not counted.
        least_seconds: for how long it is repeated, about; at least five times.
        device: that must have finished what it was given, before the clock is read.

    Returns:
        Seconds.
    """
    median_of(function, 1, device)
    took = agreed(median_of(function, 1, device))
    times = min(max(least_seconds / max(took, 1e-9), LEAST_TIMES), MOST_TIMES)
    return agreed(median_of(function, int(times), device))


def median_of(function: Callable[[], object], times: int, device: torch.device) -> float:
    """Median seconds of so many calls, which processes make together.

    Args:
        function: the function to time.
        times: that it is called; the same on every process.
        device: that must have finished what it was given, before the clock is read.

    Returns:
        Seconds.
    """

    def finished() -> None:
        function()
        wait_for(device)

    return statistics.median(_seconds_of(finished) for _ in range(times))


def _seconds_of(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
