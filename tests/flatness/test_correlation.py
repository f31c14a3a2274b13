"""Kendall's tau by hand, and the coverage of its interval."""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import kendalltau

from grawa.errors import UserError
from grawa.flatness import kendall


def test_tau_counts_pairs() -> None:
    measures, gaps = [3.0, 1.0, 4.0, 1.5, 9.0], [2.0, 0.5, 1.0, 3.0, 4.0]
    pairs = list(combinations(range(5), 2))
    agree = sum((measures[i] - measures[j]) * (gaps[i] - gaps[j]) > 0 for i, j in pairs)
    assert kendall(measures, gaps).tau == pytest.approx((2 * agree - len(pairs)) / len(pairs))


def test_the_same_and_the_opposite_order() -> None:
    same = kendall([1, 2, 3, 4, 5, 6], [10, 20, 30, 40, 50, 60])
    assert (same.tau, same.low, same.high) == pytest.approx((1.0, 1.0, 1.0))
    assert same.runs == 6
    assert kendall([1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1]).tau == pytest.approx(-1.0)


def test_any_increasing_scale_gives_the_same() -> None:
    random = np.random.default_rng(0)
    measures, gaps = random.uniform(size=20), random.uniform(size=20)
    assert kendall(list(measures), list(gaps)) == kendall(list(np.exp(9 * measures)), list(gaps))


def test_the_interval_holds_the_true_correlation_nearly_as_often_as_it_says() -> None:
    # Of two normals with correlation r, tau is 2/pi arcsin(r): 1/3 for r = 1/2.
    random, hits = np.random.default_rng(1), 0
    for _ in range(60):
        x = random.standard_normal(40)
        y = 0.5 * x + 0.75**0.5 * random.standard_normal(40)
        found = kendall(list(x), list(y), resamples=100)
        hits += found.low <= 1 / 3 <= found.high
    assert 50 <= hits < 60


def test_the_interval_is_that_of_taus_over_drawn_runs() -> None:
    random = np.random.default_rng(2)
    x, y = random.integers(0, 6, 25).astype(float), random.integers(0, 6, 25).astype(float)
    taus = []
    for _ in range(4000):  # with ties, and runs that are drawn more than once
        picked = random.integers(0, 25, 25)
        taus.append(kendalltau(x[picked], y[picked]).statistic)
    found = kendall(list(x), list(y), resamples=4000)
    assert (found.low, found.high) == pytest.approx(np.percentile(taus, [2.5, 97.5]), abs=0.02)


def test_resamples_in_which_all_runs_are_alike_have_no_part() -> None:
    found = kendall([0.0, 0.0, 1.0], [0.0, 1.0, 1.0])
    assert (found.tau, found.low, found.high) == pytest.approx((0.5, 0.5, 1.0))


@pytest.mark.parametrize(
    ("measures", "gaps", "said"),
    [
        ([1.0, 2.0], [1.0, 2.0], "at least 3 runs"),
        ([1.0, 2.0, 3.0], [1.0, 2.0], "got 3 measures and 2 gaps"),
        ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], "measures must be finite and not all equal"),
        ([1.0, 2.0, 3.0], [1.0, float("nan"), 3.0], "gaps must be finite"),
    ],
)
def test_runs_that_can_not_be_ranked_are_refused(
    measures: list[float], gaps: list[float], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        kendall(measures, gaps)
