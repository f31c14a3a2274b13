"""What differences a paired comparison can tell from chance, and with how many pairs."""

import math
from bisect import bisect_left

from scipy import special, stats

POWER = 0.8
"""Probability with which a difference that can be told is found: four of five studies find it."""

_MOST = 10_000
"""Pairs beyond which no number is given."""


def detectable(spread: float, pairs: int, level: float) -> float:
    """The smallest true mean difference that a paired t-test finds with a probability of 80%.

        d = delta s / sqrt(n),   P(T(n - 1, delta) > t) = 0.8,   P(|T(n - 1, 0)| > t) = level

    where T(f, delta) is distributed as Student's t with f degrees of freedom and noncentrality
    delta. That the test errs in the direction of a true difference is left out: it is less
    probable than 1 in 1000.

    Args:
        spread: s, the standard deviation of the differences between pairs.
        pairs: n.
        level: of the two-sided test; divided by the number of comparisons if there are several.

    Returns:
        d, in the unit of the spread; infinite with fewer than two pairs.

    >>> round(detectable(1.0, 34, 0.05), 3), detectable(1.0, 1, 0.05)
    (0.495, inf)

    Source: Cohen (1988), "Statistical Power Analysis for the Behavioral Sciences", chapter 2.
    """
    if pairs < 2:
        return math.inf
    bound = stats.t.isf(level / 2.0, pairs - 1)
    shift = special.nctdtrinc(pairs - 1, 1.0 - POWER, bound)
    return float(shift) * spread / math.sqrt(pairs)


def pairs_for(difference: float, spread: float, level: float) -> int | None:
    """The smallest number of pairs with which a paired t-test finds a difference.

    Args:
        difference: the true mean difference, above zero.
        spread: the standard deviation of the differences between pairs.
        level: of the test, as in `detectable`.

    Returns:
        The number; `None` if it is above 10,000.

    >>> pairs_for(0.5, 1.0, 0.05)
    34
    """
    counts = range(2, _MOST + 1)
    at = bisect_left(counts, -difference, key=lambda n: -detectable(spread, n, level))
    return counts[at] if at < len(counts) else None


def round_below(value: float) -> float:
    """The largest 1, 2 or 5 times a power of ten that is at most two thirds of a value.

    Args:
        value: above zero.

    Returns:
        The round value.

    >>> round_below(1.1), round_below(0.9), round_below(0.29)
    (0.5, 0.5, 0.1)
    """
    most = value / 1.5
    power = math.floor(math.log10(most))
    steps = [step for step in (1.0, 2.0, 5.0) if step <= most / 10.0**power * (1.0 + 1e-9)]
    return float(f"{max(steps)}e{power}")
