"""Statistics of errors over seeds, on plain numbers."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from scipy import stats

_NOTHING = 1e-9
"""A standard error below this fraction of the mean is rounding error."""


class Mean(NamedTuple):
    """A mean and its standard error, which is NaN for a single value."""

    mean: float
    error: float
    number: int


class Difference(NamedTuple):
    """A mean difference between pairs, with its confidence interval and p-value."""

    mean: float
    low: float
    high: float
    p: float
    """Two-sided p-value for a true difference of zero; NaN for a single pair."""
    number: int
    spread: float = math.nan
    """Standard deviation of the differences; NaN for a single pair."""


def mean_of(values: Sequence[float]) -> Mean:
    """The mean of independent values.

        mean = sum v / n,  error = sqrt(sum (v - mean)^2 / (n - 1) / n)

    Args:
        values: at least one.

    Returns:
        Mean and standard error.

    >>> mean_of([1.0, 2.0, 3.0])
    Mean(mean=2.0, error=0.5773502691896258, number=3)
    """
    n = len(values)
    error = statistics.stdev(values) / math.sqrt(n) if n > 1 else math.nan
    return Mean(statistics.fmean(values), error, n)


def paired_difference(
    first: Sequence[float], second: Sequence[float], confidence: float = 0.95
) -> Difference:
    """The mean of first - second over pairs, by Student's t with n - 1 degrees of freedom.

    Args:
        first: values, one for each pair.
        second: the values they are paired with.
        confidence: of the interval.

    Returns:
        The difference. If all pairs differ by the same amount, the spread is zero: the interval is
        that point, and the p-value is the sign test's, 2^(1-n).

    Raises:
        ValueError: if there is no pair, or the lengths differ.

    >>> paired_difference([3.0, 5.0, 7.0], [2.0, 3.0, 4.0]).mean
    2.0
    """
    if not first:
        raise ValueError("a paired difference needs at least one pair")
    mean, error, n = mean_of([a - b for a, b in zip(first, second, strict=True)])
    if n == 1:
        return Difference(mean, -math.inf, math.inf, math.nan, n)
    half = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * error
    if error <= _NOTHING * abs(mean):
        return Difference(mean, mean, mean, 1.0 if not mean else 2.0 ** (1 - n), n, 0.0)
    p = 2.0 * float(stats.t.sf(abs(mean) / error, n - 1))
    return Difference(mean, mean - half, mean + half, p, n, error * math.sqrt(n))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for the number of comparisons: they bound the family-wise error rate.

    The k-th smallest of m becomes max over j <= k of (m - j + 1) p_j, at most 1.

    Args:
        p_values: of m comparisons; NaN for a missing one, which is not counted.

    Returns:
        The corrected p-values, in the same order.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]

    Source: Holm (1979), "A Simple Sequentially Rejective Multiple Test Procedure".
    """
    order = sorted(
        (i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i]
    )
    corrected = [math.nan] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected
