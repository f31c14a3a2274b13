"""Whole numbers that users pass."""

from grawa.errors import UserError


def check_count(name: str, value: object) -> None:
    """Refuses anything but a whole number, at least 1."""
    if not isinstance(value, int) or value < 1:
        raise UserError(f"{name} must be a whole number, at least 1, got {value!r}")
