"""Faults drawn from a seed."""

from collections import Counter

import pytest

from grawa.lab.chaos.plan import KINDS, plan


def test_the_same_seed_gives_the_same_faults_and_another_one_others() -> None:
    kinds = list(KINDS)
    assert plan(kinds, 20, 4, 2, seed=3) == plan(kinds, 20, 4, 2, seed=3)
    assert plan(kinds, 20, 4, 2, seed=3) != plan(kinds, 20, 4, 2, seed=4)


@pytest.mark.parametrize("seed", range(5))
def test_each_kind_comes_about_equally_often(seed: int) -> None:
    kinds = ["kill", "stop", "nan"]
    counts = Counter(fault.kind for fault in plan(kinds, 20, 4, 2, seed))
    assert set(counts) == set(kinds)
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("seed", range(5))
def test_moments_lie_in_the_run_and_in_order(seed: int) -> None:
    faults = plan(list(KINDS), 50, 6, 3, seed)
    moments = [fault.moment for fault in faults]
    assert moments == sorted(moments)
    assert 0.0 < moments[0] < moments[-1] < 1.0
    assert [fault.number for fault in faults] == list(range(1, 51))
    assert {fault.worker for fault in faults} == set(range(6))
    assert {fault.host for fault in faults} == {0, 1, 2}
