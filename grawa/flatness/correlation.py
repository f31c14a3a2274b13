"""Rank correlation, over runs, between a measure of flatness and the generalisation gap."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from grawa.errors import UserError
from grawa.seeding import derive_seed

_FEWEST = 3
"""Least number of runs; with two, tau is always 1 or -1."""

_Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Kendall's rank correlation over some runs.

    Args:
        tau: in [-1, 1]; 1 if both rank the runs in the same order.
        low: lower end of its confidence interval.
        high: upper end of its confidence interval.
        p_value: of tau under independence, two-sided.
        runs: number of runs.
    """

    tau: float
    low: float
    high: float
    p_value: float
    runs: int


def kendall(
    measures: Sequence[float],
    gaps: Sequence[float],
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Correlation:
    """Kendall's tau-b between a measure and the generalisation gap, with a bootstrap interval.

    The interval is given by percentiles over resamples of the runs. A resample in which all
    measures, or all gaps, are equal has no correlation and is drawn again. Needs memory for R x R
    numbers.

    Args:
        measures: of each run, such as the trace of the Hessian.
        gaps: of each run: test error minus training error.
        resamples: number of resamples.
        confidence: of the interval.
        seed: of the resamples.

    Returns:
        Correlation and interval.

    Raises:
        UserError: if there are fewer than three runs, different numbers of measures and gaps, or
            values that are not finite or all equal.

    >>> kendall([1.0, 2.0, 3.0, 4.0], [0.1, 0.2, 0.3, 0.4]).p_value < 0.1
    True

    Source: Kendall (1938), "A New Measure of Rank Correlation"; Efron and Tibshirani (1993), "An
    Introduction to the Bootstrap", section 13.3.
    """
    x, y = np.asarray(measures, dtype=float), np.asarray(gaps, dtype=float)
    if len(x) != len(y) or len(x) < _FEWEST:
        raise UserError(
            f"a correlation needs at least {_FEWEST} runs with a measure and a gap each, got "
            f"{len(x)} measures and {len(y)} gaps"
        )
    for name, values in (("measures", x), ("gaps", y)):
        if not np.isfinite(values).all() or not np.ptp(values):
            raise UserError(f"{name} must be finite and not all equal, got {values.tolist()}")
    random = np.random.default_rng(derive_seed(seed, "bootstrap"))
    taus = np.empty(0)
    while len(taus) < resamples:
        taus = np.append(taus, _resampled(x, y, resamples - len(taus), random))
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(taus, [tail, 100.0 - tail])
    found = kendalltau(x, y)
    return Correlation(
        tau=float(found.statistic),
        low=float(low),
        high=float(high),
        p_value=float(found.pvalue),
        runs=len(x),
    )


def _resampled(x: _Values, y: _Values, number: int, random: np.random.Generator) -> _Values:
    """Tau-b of resamples.

    A resample is given by the counts c of how often each run was drawn. A sum over its pairs is
    c' S c, where S is 1 for a pair in order, -1 for one that is not, and 0 for a tied one.

    Returns:
        (number,), or fewer, since resamples without a correlation are left out.
    """
    picked = random.integers(0, len(x), (number, len(x)))
    counts = np.stack([np.bincount(row, minlength=len(x)) for row in picked]).astype(float)
    in_x, in_y = (np.sign(values[:, None] - values[None, :]) for values in (x, y))

    def pairs(signs: _Values) -> _Values:
        sums: _Values = ((counts @ signs) * counts).sum(axis=1)
        return sums

    untied = pairs(np.abs(in_x)) * pairs(np.abs(in_y))
    ranked = untied > 0.0
    found: _Values = pairs(in_x * in_y)[ranked] / np.sqrt(untied[ranked])
    return found
