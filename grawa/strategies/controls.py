"""Controls for experiments: a soft pull with weights that do not come from gradient norms."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from grawa.errors import UserError
from grawa.math.weights import inverse_loss
from grawa.scores import TrainingLoss
from grawa.scores.protocol import Score
from grawa.seeding import generator
from grawa.strategies.checks import check_not_negative
from grawa.strategies.soft_pull import SoftPull

_LEAST_WEIGHT = 1e-9  # so that the weights of the workers that take part never sum to zero


@dataclass(frozen=True, kw_only=True)
class RandomWeights(SoftPull):
    """Pull to an average with random weights, drawn anew each round: the control for any weights.

        w ~ Dirichlet(concentration, ..., concentration)

    The draw of round t depends on (seed, t) alone and is the same on every process.

    Args:
        pull: as in GRAWA.
        prox, prox_probability, prox_seed: as in GRAWA.
        outer: as in GRAWA.
        seed: of the draws; `None` means 0, and in `grawa train` the run's seed.
        concentration: 1 draws uniformly from all weights that sum to 1; with more, the weights are
            more equal.

    Source: ours, a control for the weights of Dimlioglu and Choromanska (2024).
    """

    seed: int | None = None
    concentration: float = 1.0

    def __post_init__(self) -> None:
        SoftPull.__post_init__(self)
        if not 0.0 < self.concentration < float("inf"):
            raise UserError(f"concentration must be positive and finite, got {self.concentration}")

    def weights(self, scores: Tensor | None, active: Tensor, round: int) -> Tensor:
        """This round's draw, rescaled over the workers that take part."""
        drawn = self.draw(len(active), round).unsqueeze(1)
        kept = torch.where(active.unsqueeze(1), drawn, 0.0)
        return kept / kept.sum(dim=0)

    def draw(self, num_workers: int, round: int) -> Tensor:
        """The weights of a round, numbered from 0, if all workers take part.

        Returns:
            (N,), float64, positive; they sum to 1.
        """
        random = generator(self.seed or 0, "random weights", round)
        concentrations = torch.full((num_workers,), self.concentration, dtype=torch.float64)
        drawn: Tensor = torch._sample_dirichlet(concentrations, generator=random)
        least = drawn.clamp_min(_LEAST_WEIGHT)
        return least / least.sum()


@dataclass(frozen=True, kw_only=True)
class InverseLoss(SoftPull):
    """Pull to the average weighted by inverse losses: GRAWA with losses in place of norms.

        w_i = loss_i^-power / sum_j loss_j^-power

    A negative loss counts as zero; workers with a loss of zero share all the weight.

    Args:
        pull: as in GRAWA.
        prox, prox_probability, prox_seed: as in GRAWA.
        outer: as in GRAWA.
        score: which loss, and over how many steps.
        power: weights are proportional to loss^-power.

    Source: ours, a control for the weights of Dimlioglu and Choromanska (2024); the limit of a
    large power is LSGD's leader.
    """

    score: Score = field(default_factory=TrainingLoss)
    power: float = 1.0

    def __post_init__(self) -> None:
        SoftPull.__post_init__(self)
        check_not_negative("power", self.power)

    def weights(self, scores: Tensor | None, active: Tensor, round: int) -> Tensor:
        """Inversely proportional to the losses."""
        assert scores is not None, "the driver gathers what `score` asks for"
        return inverse_loss(scores, self.power, active)
