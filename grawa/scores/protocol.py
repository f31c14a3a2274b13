"""What a worker reports about itself before a round, and how it is gathered while it trains."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

Loss = Callable[[nn.Module, Any], Tensor]
"""The loss of a model on a batch, a scalar."""


class Observed(Protocol):
    """What a score may find out about the hosted workers at a round, leaving no trace in them."""

    def gradient_norms_on(self, batch: Any, loss: Loss) -> Tensor:
        """L2 norm of each parameter's gradient on a batch, in eval mode.

        Args:
            batch: the same for all workers.
            loss: of a model on it.

        Returns:
            (K, L); zero where there is no gradient.
        """
        ...

    def losses_on(self, batch: Any, loss: Loss) -> Tensor:
        """The loss of each model on a batch, in eval mode.

        Args:
            batch: the same for all workers.
            loss: of a model on it.

        Returns:
            (K, 1).
        """
        ...


class Tracker(Protocol):
    """What the hosted workers' scores are made of, gathered while they train. No device sync.

    The fragments of a model have rounds of their own. What is gathered "since the last round" is
    kept for each of them.
    """

    def note_gradients(self, norms: Tensor) -> None:
        """Takes the L2 norms of a local step's gradients, (K, L); NaN for who made none."""
        ...

    def note_losses(self, losses: Tensor) -> None:
        """Takes the losses of a local step, (K,); NaN for who made none, infinite if not finite."""
        ...

    def read(self, workers: Observed, fragment: int = 0, anew: bool = True) -> Tensor:
        """The scores for the round that is due.

        Args:
            workers: those whose scores they are.
            fragment: whose round it is.
            anew: whether local steps were made since the last one; if not, what takes a pass of its
                own to find out may stay as it was.

        Returns:
            (K, G), for all groups of the model.
        """
        ...

    def restart(self, fragment: int = 0) -> None:
        """Called after each round of a fragment."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What must be saved so that training resumes bit for bit."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        ...


class Score(Protocol):
    """What a worker reports about itself before a round; smaller is better. A frozen value."""

    @property
    def is_norm(self) -> bool:
        """Whether it is a norm, whose inverse is a weight: near zero it gets all of it."""
        ...

    @property
    def needs_gradients(self) -> bool:
        """Whether gradient norms must be noted at every local step."""
        ...

    @property
    def needs_losses(self) -> bool:
        """Whether losses must be noted at every local step."""
        ...

    def tracker(self, groups: Sequence[int], num_hosted: int, num_fragments: int = 1) -> Tracker:
        """A tracker for hosted workers.

        Args:
            groups: the group of each of the model's L leaves.
            num_hosted: K.
            num_fragments: in how many parts the model is synchronised.

        Returns:
            The tracker.
        """
        ...
