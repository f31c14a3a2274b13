"""Schedules and speeds as they are written on the command line."""

from grawa.errors import UserError
from grawa.rounds.schedule import Every, Quadratic, Schedule, SharedCount, Warmup

_MOST = 1e9
"""Of the number in a schedule; NaN is no number."""


def schedule_of(text: str, sync_every: int, lr: float) -> Schedule:
    """The schedule written as `name` or `name:value`.

    Args:
        text: as in `TrainConfig.schedule`.
        sync_every: local steps between rounds.
        lr: the initial learning rate; "quadratic" has a growth such that the interval grows as
            soon as the learning rate falls.

    Returns:
        The schedule.

    Raises:
        UserError: if there is no such schedule.

    >>> schedule_of("quadratic", 4, 0.1)
    Quadratic(sync_every=4, growth=0.2)
    """
    name, _, value = text.partition(":")
    number = _number(value)
    if text == "every":
        return Every(sync_every)
    if text == "shared-count":
        return SharedCount(sync_every)
    if name == "warmup" and number is not None and number.is_integer():
        return Warmup(sync_every, steps=int(number))
    if text == "quadratic":
        return Quadratic(sync_every, growth=lr * max(1, sync_every) ** 0.5)
    if name == "quadratic" and number is not None:
        return Quadratic(sync_every, growth=number)
    raise UserError(
        "schedule must be every, shared-count, warmup:STEPS, quadratic or quadratic:GROWTH, got "
        f"{text!r}"
    )


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) <= _MOST else None


def speeds_of(text: str, workers: int) -> list[float]:
    """One speed for each worker, separated by commas.

    Returns:
        N speeds.

    Raises:
        UserError: if they are not N numbers.

    >>> speeds_of("1,0.5", 2)
    [1.0, 0.5]
    """
    try:
        speeds = [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"speeds must be numbers such as 1,1,0.5, got {text!r}") from None
    if len(speeds) != workers:
        raise UserError(f"{workers} workers need {workers} speeds, got {len(speeds)}: {text!r}")
    return speeds
