"""The score of a strategy that is named on the command line without one."""

import re

from grawa.lab import own

BY_PROBE = ("mgrawa", "lgrawa", "lgrawa_nesterov")
"""Strategies that use probe norms then, as the paper does: a run's task has data to draw a probe
batch from, which the library can't know. `MGRAWA()` and `LGRAWA()` by themselves use training
norms."""


def usual_score(strategy: str) -> str | None:
    """The score of a strategy for which no `--score` is given.

    Args:
        strategy: as on the command line, with options.

    Returns:
        The score, as `--score` has it; `None` for the strategy's own.

    >>> usual_score("mgrawa:pull=1:score.decay=0.9"), usual_score("lsgd")
    ('probe:decay=0.9', None)
    """
    return with_options_of(strategy, "probe") if is_by_probe(strategy) else None


def is_by_probe(strategy: str) -> bool:
    """Whether a strategy uses probe norms by itself; options, and other words, may follow it."""
    return own.resolved(re.split(r"[: ]", strategy)[0], BY_PROBE) in BY_PROBE


def with_options_of(strategy: str, score: str) -> str:
    """A score with those options that a strategy has for its own score."""
    return ":".join([score, *re.findall(r":(?:norms|loss|score)\.(\w+=[^:]+)", strategy)])
