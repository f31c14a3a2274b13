"""The interface of scores: what a worker reports before a round, and how it is collected."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

Loss = Callable[[nn.Module, Any], Tensor]
"""Computes the loss of a model on a batch, a scalar."""


class Observed(Protocol):
    """What a score may compute with the hosted workers at a round; it does not change them."""

    def gradient_norms_on(self, batch: Any, loss: Loss) -> Tensor:
        """L2 norm of each parameter's gradient on a batch, in eval mode.

        Args:
            batch: the same for all workers.
            loss: computes the loss of a model on the batch.

        Returns:
            (K, L); zero where there is no gradient.
        """
        ...

    def losses_on(self, batch: Any, loss: Loss) -> Tensor:
        """The loss of each model on a batch, in eval mode.

        Args:
            batch: the same for all workers.
            loss: computes the loss of a model on the batch.

        Returns:
            (K, 1).
        """
        ...

    def displacement_norms(self, fragment: int = 0) -> Tensor:
        """L2 norm of each parameter minus the strategy's last center.

        Args:
            fragment: the part of the model of which it is computed.

        Returns:
            (K, L), over all shards; zero for parameters of other fragments.
        """
        ...


class Tracker(Protocol):
    """Collects what scores need while the hosted workers train, without waiting for the device.

    Each fragment of a model has its own rounds, so what is collected "since the last round" is kept
    for each fragment.
    """

    def note_gradients(self, norms: Tensor, steps: int = 1) -> None:
        """Records the L2 norms of a local step's gradients.

        Args:
            norms: (K, L); NaN for workers without this step.
            steps: local steps of these workers since the last ones whose norms were noted.
        """
        ...

    def note_losses(self, losses: Tensor) -> None:
        """Records the losses of a local step, (K,): NaN for workers without one, inf if invalid."""
        ...

    def read(self, workers: Observed, fragment: int = 0, anew: bool = True) -> Tensor:
        """The scores for the round that is due.

        Args:
            workers: the hosted workers.
            fragment: the fragment whose round it is.
            anew: whether local steps were made since the last call; if not, a score that needs a
                pass over a batch may return the last result.

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
        """Restores what `state_dict` returned."""
        ...


class Score(Protocol):
    """What a worker reports about itself before a round; smaller is better. A frozen value."""

    @property
    def is_norm(self) -> bool:
        """Whether it is a norm, so that the guard raises small values, which would dominate."""
        ...

    @property
    def needs_gradients(self) -> bool:
        """Whether it is made of the norms of training gradients."""
        ...

    @property
    def norm_steps(self) -> int | None:
        """Of how many local steps before a round these norms are noted; `None` for all.

        Those of one in so many earlier steps are noted too, for rounds that come unforeseen.
        """
        ...

    @property
    def needs_losses(self) -> bool:
        """Whether losses must be noted at every local step."""
        ...

    @property
    def needs_center(self) -> bool:
        """Whether it compares parameters with a center that the strategy keeps."""
        ...

    def tracker(self, groups: Sequence[int], num_hosted: int, num_fragments: int = 1) -> Tracker:
        """A tracker for hosted workers.

        Args:
            groups: the group of each of the model's L parameters.
            num_hosted: K.
            num_fragments: number of parts in which the model is synchronised.

        Returns:
            The tracker.
        """
        ...
