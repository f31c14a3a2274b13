"""The outer momentum of a strategy that is named on the command line without one."""

import re

from grawa.lab import own

_BY_OUTER = ("diloco", "rda", "outer_steps", "lgrawa_nesterov")
"""Strategies that have the outer optimizer of `OuterNesterov()` without options."""

_WITH_OUTER = ("mgrawa", "lgrawa", "random", "inverse_loss")
"""Strategies that have one if an option of it is given."""

USUAL_MOMENTUM = "0.3"
"""Of `OuterNesterov()`, without an import of torch."""


def has_usual_momentum(strategy: str) -> bool:
    """Whether a strategy has an outer momentum, and names none; other words may follow it.

    Args:
        strategy: as on the command line.

    Returns:
        Whether it has.

    >>> has_usual_momentum("diloco"), has_usual_momentum("mgrawa:outer.lr=1")
    (True, True)
    >>> has_usual_momentum("mgrawa"), has_usual_momentum("diloco:outer.momentum=0.5")
    (False, False)
    """
    name, *options = strategy.split(" ")[0].split(":")
    if any(re.match(r"outer(\.momentum)?=", option) for option in options):
        return False
    known = own.resolved(name, (*_BY_OUTER, *_WITH_OUTER))
    return known in _BY_OUTER or (
        known in _WITH_OUTER and any(option.startswith("outer.") for option in options)
    )


def with_momentum(strategy: str, momentum: str = USUAL_MOMENTUM) -> str:
    """A strategy that names its outer momentum, if it has one.

    Args:
        strategy: as on the command line.
        momentum: of an outer optimizer for which none is named.

    Returns:
        The strategy.

    >>> with_momentum("diloco:outer.lr=1")
    'diloco:outer.momentum=0.3:outer.lr=1'
    """
    if not has_usual_momentum(strategy):
        return strategy
    return re.sub(r"^[\w-]+", lambda name: f"{name[0]}:outer.momentum={momentum}", strategy)
