"""Checks of strategies' options."""

from grawa.errors import UserError


def check_fraction(name: str, value: float) -> None:
    """Refuses a number outside [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise UserError(f"{name} must lie in [0, 1], got {value}")


def check_not_negative(name: str, value: float) -> None:
    """Refuses a number below zero."""
    if not value >= 0.0:
        raise UserError(f"{name} must not be negative, got {value}")
