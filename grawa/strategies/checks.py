"""Checks of strategies' options."""

from collections.abc import Sequence

from grawa.errors import UserError
from grawa.scores.groups import Grouping


def groups_by(group_by: Grouping, names: Sequence[str]) -> tuple[int, ...]:
    """The groups that a function gives to parameters.

    Args:
        group_by: the function.
        names: of the parameters.

    Returns:
        The group of each.

    Raises:
        UserError: if it does not give each a group, or leaves out a number.
    """
    groups = group_by(names)
    if len(groups) != len(names) or set(groups) != set(range(max(groups) + 1)):
        raise UserError(
            f"group_by must give each of the {len(names)} parameters a group numbered from 0 "
            f"without gaps, got {groups}"
        )
    return groups


def check_fraction(name: str, value: float) -> None:
    """Refuses a number outside [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise UserError(f"{name} must lie in [0, 1], got {value}")


def check_not_negative(name: str, value: float) -> None:
    """Refuses a number below zero."""
    if not value >= 0.0:
        raise UserError(f"{name} must not be negative, got {value}")


def check_positive(name: str, value: float) -> None:
    """Refuses a number that is not above zero."""
    if not value > 0.0:
        raise UserError(f"{name} must be positive, got {value}")
