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


def slowest_median(
    function: Callable[[], object], least_seconds: float, device: torch.device
) -> float:
    """The longest of the processes' median seconds of calls that each makes on its own.

    Args:
        function: the function to time; a first call is not counted.
        least_seconds: for how long it is repeated, about; at least five times.
        device: that must have finished what it was given, before the clock is read.

    Returns:
        Seconds; the same on every process.
    """
    return agreed(statistics.median(_repeated(function, least_seconds, device)))


def median_of_slowest(
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
    own = _repeated(function, least_seconds, device, before)
    everyone = everyones(own, "compare times")
    slowest: list[float] = [max(each) for each in zip(*everyone, strict=True)]
    return statistics.median(slowest)


def _repeated(
    function: Callable[[], object],
    least_seconds: float,
    device: torch.device,
    before: Callable[[], object] = lambda: None,
) -> list[float]:
    """Seconds of calls, as many on every process, since a call may wait for the others."""
    _times_of(function, 1, device, before)
    took = agreed(*_times_of(function, 1, device, before))
    times = min(max(least_seconds / max(took, 1e-9), LEAST_TIMES), MOST_TIMES)
    return _times_of(function, int(times), device, before)


def _times_of(
    function: Callable[[], object],
    times: int,
    device: torch.device,
    before: Callable[[], object] = lambda: None,
) -> list[float]:
    found = []
    for _ in range(times):
        before()
        start = time.perf_counter()
        function()
        wait_for(device)
        found.append(time.perf_counter() - start)
    return found


def median_of(function: Callable[[], object], times: int, device: torch.device) -> float:
    """Median seconds of so many calls, which processes make together.

    Args:
        function: the function to time.
        times: that it is called; the same on every process.
        device: that must have finished what it was given, before the clock is read.

    Returns:
        Seconds.
    """
    return statistics.median(_times_of(function, times, device))
