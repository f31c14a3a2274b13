"""Inverse-loss weights: a soft pull in which a worker counts more the smaller its loss is."""

from dataclasses import dataclass, field

from torch import Tensor

from grawa.math.weights import inverse_norm
from grawa.scores import TrainingLoss
from grawa.scores.protocol import Score
from grawa.strategies.checks import check_not_negative
from grawa.strategies.protocol import State
from grawa.strategies.soft_pull import SoftPull


@dataclass(frozen=True, kw_only=True)
class InverseLoss(SoftPull):
    """Pull to the average weighted by inverse losses, GRAWA's control with losses for norms.

        w_i = loss_i^-power / sum_j loss_j^-power

    A loss of zero or below counts as zero; those who have one share all the weight.

    Args:
        pull: as in GRAWA.
        prox: as in GRAWA.
        outer: as in GRAWA.
        loss: where the loss comes from, and how recent it is.
        power: weights are proportional to loss^-power.

    Source: ours, a control for the weights of Dimlioglu and Choromanska (2024); the limit of a
    large power is LSGD's leader.
    """

    loss: Score = field(default_factory=TrainingLoss)
    power: float = 1.0

    def __post_init__(self) -> None:
        SoftPull.__post_init__(self)
        check_not_negative("power", self.power)

    @property
    def score(self) -> Score:
        """Recent training loss."""
        return self.loss

    def weights(self, scores: Tensor, state: State) -> Tensor:
        """Inversely proportional to the losses."""
        return inverse_norm(scores.clamp_min(0.0), self.power)
