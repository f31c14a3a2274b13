"""When a round is due."""

from dataclasses import dataclass

from grawa.errors import UserError


@dataclass(frozen=True)
class Every:
    """A round after every so many local steps.

    Args:
        steps: tau, at least 1.

    >>> [step for step in range(1, 9) if Every(4).is_due(step)]
    [4, 8]
    """

    steps: int

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or self.steps < 1:
            raise UserError(f"sync_every must be a whole number, at least 1, got {self.steps}")

    def is_due(self, step: int) -> bool:
        """Whether a round follows the `step`-th local step, counted from 1."""
        return step % self.steps == 0

    @property
    def share(self) -> float:
        """What part of a round one local step makes up."""
        return 1.0 / self.steps
