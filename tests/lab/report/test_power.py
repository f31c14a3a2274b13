"""What differences can be told, against published tables and by another way of computing it."""

import math

import numpy as np
import pytest
from scipy import stats

from grawa.lab.report.power import POWER, detectable, pairs_for, round_below


@pytest.mark.parametrize(("effect", "pairs"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_pairs_are_those_of_published_tables(effect: float, pairs: int) -> None:
    # For a paired t-test at a two-sided level of 0.05 and a power of 80% (Cohen 1988; G*Power).
    assert pairs_for(effect, 1.0, 0.05) == pairs
    assert detectable(1.0, pairs, 0.05) <= effect < detectable(1.0, pairs - 1, 0.05)


@pytest.mark.parametrize(("pairs", "level"), [(2, 0.05), (4, 0.05 / 18), (8, 0.01), (40, 0.05)])
def test_the_difference_is_found_in_four_of_five_studies(pairs: int, level: float) -> None:
    # P(T > t) for T = (Z + delta) / sqrt(W / f), by the mean over quantiles of W.
    delta = detectable(1.0, pairs, level) * math.sqrt(pairs)
    bound = stats.t.isf(level / 2, pairs - 1)
    shares = (np.arange(20_000) + 0.5) / 20_000
    spreads = np.sqrt(stats.chi2.ppf(shares, pairs - 1) / (pairs - 1))
    assert stats.norm.sf(bound * spreads - delta).mean() == pytest.approx(POWER, abs=1e-3)


def test_many_pairs_need_what_the_normal_distribution_says() -> None:
    # (1.95996 + 0.84162) / sqrt(n)
    assert detectable(1.0, 1_000_000, 0.05) == pytest.approx(2.80158 / 1000, rel=1e-4)


def test_differences_grow_with_the_spread_and_one_pair_tells_nothing() -> None:
    assert detectable(3.0, 12, 0.05) == pytest.approx(3.0 * detectable(1.0, 12, 0.05))
    assert detectable(1.0, 1, 0.05) == math.inf
    assert pairs_for(1e-6, 1.0, 0.05) is None


def test_round_values_are_smaller_by_a_third_at_least() -> None:
    values = [1.1, 0.9, 1.5, 0.29, 15.0, 3e-5]
    assert [round_below(value) for value in values] == [0.5, 0.5, 1.0, 0.1, 10.0, 2e-5]
