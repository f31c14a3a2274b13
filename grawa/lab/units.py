"""Fractions on the command line."""

from grawa.errors import UserError


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
