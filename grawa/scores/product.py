"""A norm times a loss."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from grawa.scores.loss import TrainingLoss
from grawa.scores.protocol import Observed, Score, Tracker
from grawa.scores.training_norms import GradientNorms

_LEAST_LOSS = 1e-12


@dataclass(frozen=True, kw_only=True)
class NormTimesLoss:
    """A gradient norm times a loss; experimental.

        score_ig = norm_ig * loss_i

    A worker with noisy gradients has large norms, one with wrong labels a large loss; the product
    is large for either. Whether it is a better signal than the norm alone is not established.
    Losses are raised to at least 1e-12, so that the product is zero only if the norm is zero.

    Args:
        norms: where the gradient norms come from.
        loss: which loss, and over how many steps.

    Source: ours.
    """

    is_norm: ClassVar[bool] = True

    norms: Score = field(default_factory=GradientNorms)
    loss: Score = field(default_factory=TrainingLoss)

    @property
    def needs_gradients(self) -> bool:
        """The same as for the norms."""
        return self.norms.needs_gradients

    @property
    def norm_steps(self) -> int | None:
        """The same as for the norms."""
        return self.norms.norm_steps

    @property
    def needs_losses(self) -> bool:
        """The same as for the loss."""
        return self.loss.needs_losses

    @property
    def needs_center(self) -> bool:
        """The same as for the norms."""
        return self.norms.needs_center

    def tracker(
        self, groups: Sequence[int], num_hosted: int, num_fragments: int = 1
    ) -> "ProductTracker":
        """See `Score.tracker`."""
        return ProductTracker(
            self.norms.tracker(groups, num_hosted, num_fragments),
            self.loss.tracker((0,), num_hosted, num_fragments),
        )


class ProductTracker:
    """Computes the products for `NormTimesLoss`."""

    def __init__(self, norms: Tracker, losses: Tracker) -> None:
        self._norms = norms
        self._losses = losses

    def note_gradients(self, norms: Tensor, steps: int = 1) -> None:
        """See `Tracker.note_gradients`."""
        self._norms.note_gradients(norms, steps)

    def note_losses(self, losses: Tensor) -> None:
        """See `Tracker.note_losses`."""
        self._losses.note_losses(losses)

    def read(self, workers: Observed, fragment: int = 0, anew: bool = True) -> Tensor:
        """See `Tracker.read`; the product is zero only where the norm is."""
        losses = self._losses.read(workers, fragment, anew).clamp_min(_LEAST_LOSS)
        return self._norms.read(workers, fragment, anew).to(losses) * losses

    def restart(self, fragment: int = 0) -> None:
        """Restarts both."""
        self._norms.restart(fragment)
        self._losses.restart(fragment)

    def state_dict(self) -> dict[str, Any]:
        """See `Tracker.state_dict`."""
        return {"norms": self._norms.state_dict(), "losses": self._losses.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Tracker.load_state_dict`."""
        self._norms.load_state_dict(state["norms"])
        self._losses.load_state_dict(state["losses"])
