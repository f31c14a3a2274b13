"""What a worker reports about itself before a round, and how it is gathered while it trains."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor


class Tracker(Protocol):
    """What the hosted workers' scores are made of, gathered while they train. No device sync."""

    def note_gradients(self, norms: Tensor) -> None:
        """Takes the L2 norms of a local step's gradients, (K, L); NaN for who made none."""
        ...

    def note_losses(self, losses: Tensor) -> None:
        """Takes the losses of a local step, (K,); NaN for who made none, infinite if not finite."""
        ...

    def read(self, anew: bool = True) -> Tensor:
        """The scores for the round that is due.

        Args:
            anew: whether local steps were made since the last one; if not, what takes a pass of its
                own to find out may stay as it was.

        Returns:
            (K, G).
        """
        ...

    def restart(self) -> None:
        """Called after each round."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What must be saved so that training resumes bit for bit."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        ...


class Score(Protocol):
    """What a worker reports about itself before a round; smaller is better."""

    @property
    def is_norm(self) -> bool:
        """Whether it is a norm, whose inverse is a weight: near zero it draws all of it."""
        ...

    @property
    def needs_gradients(self) -> bool:
        """Whether gradient norms must be noted at every local step."""
        ...

    @property
    def needs_losses(self) -> bool:
        """Whether losses must be noted at every local step."""
        ...

    def tracker(self, groups: Sequence[int], num_hosted: int) -> Tracker:
        """A tracker for hosted workers whose L leaves belong to these groups."""
        ...
