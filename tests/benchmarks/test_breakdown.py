"""A round's time is charged to the modules that took it."""

import time

import pytest
import torch

import grawa
from breakdown import ELSEWHERE, break_down
from grawa.math import norms, weights


def test_time_goes_to_the_modules_that_took_it_and_adds_up() -> None:
    rows = torch.randn(50, 100_000)

    def work() -> None:
        weights.uniform(4)
        for row in rows:
            norms.row_norms([row[None]])

    began = time.perf_counter()
    seconds = break_down(work)
    elapsed = time.perf_counter() - began
    assert set(seconds) == {"math.leaves", "math.norms", "math.weights", ELSEWHERE}
    assert all(own > 0.0 for own in seconds.values())
    assert 0.5 * elapsed < sum(seconds.values()) < elapsed


def test_a_round_is_taken_apart_whatever_its_functions_are_called() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with grawa.Averager(model, optimizer, grawa.MGRAWA(), sync_every=10**9) as averager:
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        seconds = break_down(averager.synchronize)
    assert {"averager", "rounds.engine"} <= set(seconds)


def test_an_error_ends_the_profile_too() -> None:
    with pytest.raises(ZeroDivisionError):
        break_down(lambda: 1 / 0)
    assert break_down(lambda: None).keys() == {ELSEWHERE}
