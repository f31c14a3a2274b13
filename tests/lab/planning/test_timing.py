"""How often calls are timed, and what is waited for before the clock is read."""

import time
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from grawa.lab.planning.timing import LEAST_TIMES, median_of_slowest, slowest_median
from tests.world import on_ranks

CPU = torch.device("cpu")


@pytest.mark.parametrize("together", [False, True])
def test_a_call_ends_when_the_device_has_done_it(together: bool) -> None:
    done: list[str] = []
    with patch("grawa.lab.planning.timing.wait_for", lambda _: done.append("waited")):
        if together:
            median_of_slowest(lambda: done.append("called"), 0.0, CPU, lambda: None)
        else:
            slowest_median(lambda: done.append("called"), 0.0, CPU)
    assert done == ["called", "waited"] * (2 + LEAST_TIMES)


def calls_that_wait_for_each_other() -> tuple[int, float]:
    """A step that is an all-reduce, and takes longer on one rank outside it."""
    made = 0

    def step() -> None:
        nonlocal made
        made += 1
        time.sleep(0.004 * dist.get_rank())
        dist.all_reduce(torch.zeros(1))

    seconds = slowest_median(step, 0.03, CPU)
    return made, seconds


@pytest.mark.world
def test_a_step_that_waits_for_other_processes_is_made_as_often_by_all() -> None:
    found = on_ranks(2, calls_that_wait_for_each_other)
    assert found[0] == found[1]
