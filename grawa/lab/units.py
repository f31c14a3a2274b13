"""Times and fractions on the command line."""

import re

from grawa.errors import UserError

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}

_MOST_SECONDS = 1e12
"""Some thirty thousand years."""


def seconds(text: str, what: str) -> float:
    """A time such as 50ms, 90s, 15m or 2h, in seconds.

    Args:
        text: a number and its unit.
        what: whose value it is, for the message.

    Returns:
        Seconds, not negative.

    Raises:
        UserError: if it is not a time.

    >>> seconds("1.5h", "--budget")
    5400.0
    """
    match = re.fullmatch(r"([0-9]*\.?[0-9]+(?:e-?[0-9]+)?) ?([a-z]+)", text.strip())
    if match is None or match[2] not in _SECONDS:
        raise UserError(
            f"{what} must be a time with a unit ({', '.join(_SECONDS)}), such as 90s, got {text!r}"
        )
    found = float(match[1]) * _SECONDS[match[2]]
    if found > _MOST_SECONDS:
        raise UserError(f"{what} must be at most {_MOST_SECONDS:.0e} s, got {text:.40}")
    return found


def share(text: str, what: str) -> float:
    """A fraction such as 5% or 0.05.

    Args:
        text: a number, or a percentage.
        what: whose value it is, for the message.

    Returns:
        The fraction, positive.

    Raises:
        UserError: if it is not a positive number.

    >>> share("5%", "--until-error")
    0.05
    """
    try:
        value = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        value = -1.0
    if not 0.0 < value < float("inf"):
        raise UserError(f"{what} must be a positive number or percentage, such as 5%, got {text!r}")
    return value
