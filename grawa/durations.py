"""Times as users write them."""

import re
from datetime import timedelta

from grawa.errors import UserError

Duration = timedelta | float | str
"""A timedelta, a number of seconds, or a text such as "90s", "500ms" or "2h"."""

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


def positive(value: Duration, what: str) -> timedelta:
    """A positive time that a user gives as a timedelta, as seconds or as text.

    Args:
        value: the time.
        what: whose value it is, for the message.

    Returns:
        The time.

    Raises:
        UserError: if it is no time, or not positive.

    >>> positive("500ms", "grace"), positive(90, "timeout")
    (datetime.timedelta(microseconds=500000), datetime.timedelta(seconds=90))
    """
    if isinstance(value, str):
        value = seconds(value, what)
    if not isinstance(value, timedelta):
        try:
            value = timedelta(seconds=value)
        except (TypeError, ValueError, OverflowError):
            raise UserError(
                f'{what} must be seconds, a timedelta, or a text such as "90s", got {value!r}'
            ) from None
    if value <= timedelta(0):
        raise UserError(f"{what} must be positive, got {value.total_seconds():g} s")
    return value
