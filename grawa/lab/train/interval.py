"""How often something is done: every so many rounds, or seconds."""

from dataclasses import dataclass

from grawa.durations import seconds
from grawa.errors import UserError
from grawa.rounds.schedule import LONGEST


@dataclass(frozen=True)
class Interval:
    """So many rounds, or so much time; neither for never.

    Args:
        rounds: after every so many rounds.
        seconds: at the first round after so many seconds.

    >>> Interval.parse(20, "checkpoint_every"), Interval.parse("2m", "checkpoint_every")
    (Interval(rounds=20, seconds=0.0), Interval(rounds=0, seconds=120.0))
    """

    rounds: int = 0
    seconds: float = 0.0

    @classmethod
    def parse(cls, value: int | str, what: str) -> "Interval":
        """Reads a number of rounds, such as 20, or a time, such as 10s; 0 means never.

        Args:
            value: what was written.
            what: whose value it is, for the message.

        Returns:
            The interval.

        Raises:
            UserError: if it is neither.
        """
        if isinstance(value, str) and not value.strip().lstrip("+-").isdecimal():
            try:
                return cls(seconds=seconds(value, what))
            except UserError:
                raise UserError(
                    f"{what} must be a number of rounds, such as 20, or a time, such as 10s, got "
                    f"{value!r}"
                ) from None
        if int(value) < 0:
            raise UserError(f"{what} must not be negative, got {value}")
        return cls(rounds=min(int(value), LONGEST))
