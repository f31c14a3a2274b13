"""Who takes part in a round, and how much a worker's own report is believed."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from grawa.errors import DivergedError, UserError
from grawa.math.weights import floor_at_median


class Health(NamedTuple):
    """What is known of all workers before a round; float64, on the CPU."""

    sizes: Tensor
    """(N,), L2 norms of the parameters; not finite where one of them is not."""
    losses: Tensor
    """(N,), mean of recent training losses; NaN where none was recorded."""
    scores: Tensor | None
    """(N, G), smaller is better."""
    are_norms: bool = False
    """Whether the scores are norms, of which one near zero would draw all the weight."""


class Verdict(NamedTuple):
    """Who takes part, with which scores."""

    active: Tensor
    """(N,), true for those who take part in the center."""
    scores: Tensor | None
    """(N, G), finite; without meaning for those who don't."""
    reset: Tensor
    """(N,), true for those who must start again from the consensus."""
    left_out: dict[int, str]
    """Worker -> why."""


@dataclass(frozen=True, kw_only=True)
class Guard:
    """Keeps a worker that has gone wrong from ruining the others.

    A worker is *reset* if its parameters, loss or score are not finite, or its parameters are many
    times as large as the others': it has no part in the center, starts again from the consensus,
    and its optimizer forgets the past. Of the others, one whose loss is far above the median is
    *left out* of the center, but still pulled to it; and norms are floored at a fraction of their
    group's median, and at all of it where the loss says that a small norm is not earned: what
    learns nothing, a dead network or one with wrong labels, has small gradients too, and would draw
    the weight while all losses are high and none is far above the others. Medians of losses and
    sizes are the lower of the two middle values, so that of two halves the one with the smaller
    ones is believed.

    Losses are known in `grawa train`, and to an `Averager` that is told them (`record_loss`);
    without them that gate stays open, and small norms are believed. `loss_margin` is in the units
    of the loss: where losses are far below it, as in many regressions, set it lower.

    Args:
        norm_floor: the least norm, as a fraction of the median; 0 turns it off.
        unearned_floor: the same for a worker whose loss is above the median; no less than
            `norm_floor` counts.
        loss_ratio: a loss may be this many times the median ...
        loss_margin: ... plus this much, before its worker is left out; infinity turns it off.
        size_ratio: parameters may have this many times the median L2 norm before their worker is
            reset; infinity turns it off.

    Source: ours; `docs/decisions.md` has the measurements behind the defaults.
    """

    norm_floor: float = 0.5
    unearned_floor: float = 1.0
    loss_ratio: float = 2.0
    loss_margin: float = 0.3
    size_ratio: float = 3.0

    def __post_init__(self) -> None:
        for name in ("norm_floor", "unearned_floor"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UserError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if not self.loss_ratio >= 1.0:
            raise UserError(f"loss_ratio must be at least 1, got {self.loss_ratio}")
        if not self.loss_margin >= 0.0:
            raise UserError(f"loss_margin must not be negative, got {self.loss_margin}")
        if not self.size_ratio > 1.0:
            raise UserError(f"size_ratio must be above 1, got {self.size_ratio}")

    def judge(self, health: Health) -> Verdict:
        """Decides on a round; a function of what everyone knows, so that all decide alike.

        Args:
            health: of all workers.

        Returns:
            Who takes part.

        Raises:
            DivergedError: if no worker is finite.
        """
        reasons = _not_finite(health)
        sound = torch.tensor([i not in reasons for i in range(len(health.sizes))])
        if not bool(sound.any()):
            raise DivergedError(
                f"all {len(sound)} workers have diverged (worker 0: {reasons[0]}); lower the "
                "learning rate, or resume from an earlier checkpoint"
            )
        sound &= ~self._above(health.sizes, sound, self.size_ratio, 0.0, "parameter norm", reasons)
        above = self._above(
            health.losses, sound, self.loss_ratio, self.loss_margin, "loss", reasons
        )
        active = sound & ~above
        return Verdict(active, self._believed(health, active), ~sound, reasons)

    @staticmethod
    def _above(
        values: Tensor,
        among: Tensor,
        ratio: float,
        margin: float,
        name: str,
        reasons: dict[int, str],
    ) -> Tensor:
        """Whose value is far above the median; (N,), false where a value is not known."""
        known = torch.where(among, values, torch.nan)
        median = known.nanmedian()
        limit = median + (ratio - 1.0) * median.abs() + margin
        above = (known > limit) & (limit.abs() > 0.0)  # half the values are zero: that says nothing
        for i in torch.where(above)[0].tolist():
            reasons[i] = f"{name} {known[i]:.3g} is above {limit:.3g} (median {median:.3g})"
        return above

    def _believed(self, health: Health, active: Tensor) -> Tensor | None:
        if health.scores is None:
            return None
        scores = torch.where(torch.isfinite(health.scores), health.scores, 0.0)
        if not health.are_norms:
            return scores
        losses = torch.where(active, health.losses, torch.nan)
        floors = scores.new_full((len(scores), 1), self.norm_floor)
        floors[losses > losses.nanmedian()] = max(self.norm_floor, self.unearned_floor)
        return floor_at_median(scores, floors, active)


def _not_finite(health: Health) -> dict[int, str]:
    """Workers of whom something is not finite -> what."""
    reasons: dict[int, str] = {}
    checks = [("parameters are", torch.isfinite(health.sizes))]
    if health.scores is not None:
        checks.append(("score is", torch.isfinite(health.scores).all(dim=1)))
    checks.append(("loss is", ~torch.isinf(health.losses)))  # NaN means that it is not known
    for what, finite in checks:
        for i in torch.where(~finite)[0].tolist():
            reasons.setdefault(i, f"{what} not finite")
    return reasons


def trusting(health: Health) -> Verdict:
    """The verdict where there is no guard: everyone takes part, as they are."""
    everyone = torch.ones_like(health.sizes, dtype=torch.bool)
    return Verdict(everyone, health.scores, ~everyone, {})
