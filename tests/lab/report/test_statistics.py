"""Statistics against values worked out by hand."""

import math

import pytest

from grawa.lab.report.statistics import holm, mean_of, paired_difference


def test_the_standard_error_is_that_of_the_mean() -> None:
    # Squares of deviations: 1 + 0 + 1 = 2; variance 2 / 2 = 1; error sqrt(1 / 3).
    assert mean_of([1.0, 2.0, 3.0]) == pytest.approx((2.0, 1 / math.sqrt(3), 3))


def test_a_single_value_has_a_mean_and_no_error() -> None:
    mean = mean_of([5.0])
    assert mean.mean == pytest.approx(5.0)
    assert math.isnan(mean.error)


def test_a_paired_difference_has_students_interval_and_p_value() -> None:
    # Differences 1, 2, 3: mean 2, error 1/sqrt 3, t = 2 sqrt 3, 2 degrees of freedom. There the
    # distribution is known: p = 1 - t / sqrt(t^2 + 2); and 97.5% lie below sqrt(2 q^2 / (1 - q^2))
    # with q = 0.95.
    found = paired_difference([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    quantile = math.sqrt(2 * 0.95**2 / (1 - 0.95**2))
    assert quantile == pytest.approx(4.302653, abs=1e-6)
    assert found.mean == pytest.approx(2.0)
    assert found.low == pytest.approx(2.0 - quantile / math.sqrt(3))
    assert found.high == pytest.approx(2.0 + quantile / math.sqrt(3))
    assert found.p == pytest.approx(1 - math.sqrt(12 / 14))
    assert found.number == 3


def test_a_paired_difference_does_not_see_what_pairs_share() -> None:
    seeds = [10.0, -4.0, 250.0]
    plain = paired_difference([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    shifted = paired_difference(
        [a + s for a, s in zip([2.0, 4.0, 6.0], seeds, strict=True)],
        [b + s for b, s in zip([1.0, 2.0, 3.0], seeds, strict=True)],
    )
    assert shifted == pytest.approx(plain)


def test_the_other_way_round_the_sign_changes_and_p_does_not() -> None:
    there = paired_difference([0.3, 0.1, 0.9], [0.2, 0.3, 0.1])
    back = paired_difference([0.2, 0.3, 0.1], [0.3, 0.1, 0.9])
    assert (back.mean, back.low, back.high) == pytest.approx((-there.mean, -there.high, -there.low))
    assert back.p == pytest.approx(there.p)


def test_equal_differences_have_the_sign_tests_p_value() -> None:
    # Four coins on the same side, whichever: 2 / 2^4. Rounding in 0.3 - 0.2 must not matter.
    assert paired_difference([0.3, 0.5, 0.7, 0.9], [0.2, 0.4, 0.6, 0.8]).p == pytest.approx(1 / 8)
    assert paired_difference([1.0, 2.0], [1.0, 2.0]).p == pytest.approx(1.0)


def test_one_pair_says_nothing_of_chance() -> None:
    found = paired_difference([3.0], [1.0])
    assert (found.mean, found.low, found.high) == (2.0, -math.inf, math.inf)
    assert math.isnan(found.p)


def test_pairs_must_be_pairs() -> None:
    with pytest.raises(ValueError, match="at least one pair"):
        paired_difference([], [])
    with pytest.raises(ValueError, match="zip"):
        paired_difference([1.0], [1.0, 2.0])


def test_holm_corrects_step_by_step() -> None:
    # 4 x 0.005; then 3 x 0.01, 2 x 0.03, 1 x 0.04, never below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_counts_only_comparisons_that_were_made() -> None:
    corrected = holm([math.nan, 0.02, 0.6])
    assert math.isnan(corrected[0])
    assert corrected[1:] == pytest.approx([0.04, 0.6])


def test_holm_ends_at_one() -> None:
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
