"""Fractions and large counts on the command line: 25% and 0.25 are the same everywhere."""

import math
import re

from grawa.errors import UserError

_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9}

_MOST = 1e15


def number(text: str) -> float:
    """A number, or a percentage.

    Returns:
        The number; a `ValueError` is raised if it is none.

    >>> number("25%"), number("0.25")
    (0.25, 0.25)
    """
    return float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)


def share(text: str, what: str, most: float = math.inf) -> float:
    """A fraction such as 5% or 0.05.

    Args:
        text: a number, or a percentage.
        what: whose value it is, for the message.
        most: that it can be.

    Returns:
        The fraction, positive.

    Raises:
        UserError: if it is not a positive number, or more than `most`.

    >>> share("5%", "--until-error")
    0.05
    """
    try:
        value = number(text)
    except ValueError:
        value = -1.0
    if not 0.0 < value < math.inf:
        raise UserError(f"{what} must be a positive number or percentage, such as 5%, got {text!r}")
    if value > most:
        raise UserError(too_large(what, text, value))
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


def too_large(what: str, text: str, value: float) -> str:
    """What is wrong with a fraction that is too large, maybe a percentage without its sign.

    Args:
        what: whose value it is.
        text: as it was written.
        value: what that means.

    Returns:
        The message.

    >>> too_large("swa", "25", 25.0)
    'swa 25 is 2500%: write a percentage, such as 25%, or a fraction, such as 0.25'
    >>> too_large("swa", "150%", 1.5)
    'swa 150% is too large: write a percentage, such as 25%, or a fraction, such as 0.25'
    """
    is_percentage = text.endswith("%")
    percent = 25.0 if is_percentage or value > 100.0 else value
    return (
        f"{what} {text} is {'too large' if is_percentage else f'{value:.0%}'}: write a percentage, "
        f"such as {percent:g}%, or a fraction, such as {percent / 100.0:g}"
    )
