"""Fractions and large counts on the command line."""

import re

from grawa.errors import UserError

_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9}

_MOST = 1e15


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


def count(text: str, what: str) -> int:
    """A whole number such as 124M, 1.5B, 350k or 25,557,032.

    Args:
        text: a number, with k for thousands, M for millions or B for billions.
        what: whose value it is, for the message.

    Returns:
        The number, at least 1.

    Raises:
        UserError: if it is none.

    >>> count("124M", "--parameters"), count("1.5b", "--parameters")
    (124000000, 1500000000)
    """
    match = re.fullmatch(r"([0-9][0-9,_]*(?:\.[0-9]+)?) ?([kmb]?)", text.strip().lower())
    value = float(re.sub(r"[,_]", "", match[1])) * _UNITS[match[2]] if match else 0.0
    if not 1.0 <= value <= _MOST or abs(value - round(value)) > 1e-9 * value:
        raise UserError(
            f"{what} must be a whole number from 1 to {_MOST:.0e}, such as 124M, 1.5B or 25557032, "
            f"got {text[:60]!r}"
        )
    return round(value)
