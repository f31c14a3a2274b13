"""GRAWA: a center in which a worker counts more the smaller its gradient norm is."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from grawa.math.weights import inverse_norm
from grawa.scores import GradientNorms
from grawa.scores.groups import Grouping, by_model, by_tensor
from grawa.scores.protocol import Score
from grawa.strategies.checks import check_not_negative, groups_by
from grawa.strategies.soft_pull import SoftPull


@dataclass(frozen=True, kw_only=True)
class GRAWA(SoftPull):
    """Pull to the gradient-weighted average.

        beta_i = (1 / ||g_i||) / sum_j (1 / ||g_j||)
        x_C    = sum_i beta_i x_i
        x_i   <- (1 - pull) x_i + pull x_C                            at a round
        x_i   <- (1 - prox/sync_every) x_i + (prox/sync_every) x_C    after each local step

    Args:
        pull: how far workers move to the center at a round.
        prox: how far they move to it, in total, over the local steps of a round.
        prox_probability: with which a local step is followed by a pull, then 1/probability times as
            strong; 1 by default, for a weak pull after every step. See `Proximal`.
        prox_seed: of these draws; `None` means 0, and in `grawa train` the run's seed.
        score: where the gradient norms come from.
        power: weights are proportional to norm^-power.
        outer: if given, the center is not the weighted average itself but steps toward it with
            this optimizer, as DiLoCo's does.
        group_by: which parameters share a weight: `by_model`, `by_tensor`, or your own.

    Source: Dimlioglu and Choromanska (2024), algorithms 1 and 2.
    Deviation: `outer`, and a power other than 1, are ours. A norm of zero beside positive ones
    gives weight zero, where the formula's limit is all the weight: a zero norm means that the
    worker has not trained this tensor; see `grawa.math.weights.inverse_norm`.
    """

    score: Score = field(default_factory=GradientNorms)
    power: float = 1.0
    group_by: Grouping = by_model

    def __post_init__(self) -> None:
        SoftPull.__post_init__(self)
        check_not_negative("power", self.power)

    def groups(self, names: Sequence[str]) -> tuple[int, ...]:
        """The groups that `group_by` returns."""
        return groups_by(self.group_by, names)

    def weights(self, scores: Tensor | None, active: Tensor, round: int) -> Tensor:
        """Inversely proportional to the norms."""
        assert scores is not None, "the driver gathers what `score` asks for"
        return inverse_norm(scores, self.power, active)


@dataclass(frozen=True, kw_only=True)
class MGRAWA(GRAWA):
    """GRAWA at model level: one weight per worker, from the sum of its tensors' gradient norms.

    Args:
        pull: how far workers move to the center at a round, 0.5 by default.
        prox: how far they move to it, in total, over the local steps of a round.
        prox_probability: with which a local step is followed by a pull, then 1/probability times as
            strong; 1 by default, for a weak pull after every step. See `Proximal`.
        prox_seed: of these draws; `None` means 0, and in `grawa train` the run's seed.
        score: where the gradient norms come from, `grawa.GradientNorms()` by default.
        power: weights are proportional to norm^-power, 1 by default.
        outer: an optimizer for the center, such as `grawa.OuterNesterov()`; none by default.

    >>> MGRAWA(pull=0.8).groups(["weight", "bias"])
    (0, 0)

    Source: Dimlioglu and Choromanska (2024), algorithm 1.
    """

    group_by: Grouping = by_model


@dataclass(frozen=True, kw_only=True)
class LGRAWA(GRAWA):
    """GRAWA at layer level: one weight per worker and parameter tensor, from its gradient norm.

    Args:
        pull: how far workers move to the center at a round, 0.5 by default.
        prox: how far they move to it, in total, over the local steps of a round.
        prox_probability: with which a local step is followed by a pull, then 1/probability times as
            strong; 1 by default, for a weak pull after every step. See `Proximal`.
        prox_seed: of these draws; `None` means 0, and in `grawa train` the run's seed.
        score: where the gradient norms come from, `grawa.GradientNorms()` by default.
        power: weights are proportional to norm^-power, 1 by default.
        outer: an optimizer for the center, such as `grawa.OuterNesterov()`; none by default.
        group_by: which parameters share a weight: `grawa.by_block` for blocks of a transformer.

    >>> LGRAWA().groups(["weight", "bias"])
    (0, 1)

    Source: Dimlioglu and Choromanska (2024), algorithm 2.
    """

    group_by: Grouping = by_tensor
