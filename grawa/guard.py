"""Who takes part in a round, and how much a worker's own report is believed."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from grawa.errors import DivergedError, UserError
from grawa.math.weights import floor_at_median


class Health(NamedTuple):
    """What is known of all workers before a round; float64, on the CPU."""

    finite: Tensor
    """(N,), true where parameters are finite."""
    losses: Tensor
    """(N,), mean training loss since the last round; NaN where none was recorded."""
    scores: Tensor | None
    """(N, G), smaller is better."""
    are_norms: bool = False
    """Whether the scores are norms, of which one near zero would draw all the weight."""


class Verdict(NamedTuple):
    """Who takes part, with which scores."""

    active: Tensor
    """(N,), true for those who take part in the center."""
    scores: Tensor | None
    """(N, G), infinite for those who don't."""
    reset: Tensor
    """(N,), true for those who must start again from the consensus."""
    left_out: dict[int, str]
    """Worker -> why."""


@dataclass(frozen=True, kw_only=True)
class Guard:
    """Keeps a worker that has gone wrong from ruining the others.

    A worker whose parameters or score are not finite is left out and starts again from the
    consensus, its optimizer's state cleared. Of the others, norms are floored at a fraction of
    the group's median, and a worker whose loss is far above the median is left out of the center,
    but still pulled to it. The floor alone would not do: a dead network has small gradients, and
    so attracts the weight.

    Losses are known in `grawa train`, and to an `Averager` that is told them
    (`record_loss`); without them that gate stays open.

    Args:
        norm_floor: the least norm, as a fraction of the median; 0 turns it off.
        loss_ratio: a loss may be this many times the median ...
        loss_margin: ... plus this much, before its worker is left out; infinity turns it off.

    Source: ours; `docs/decisions.md` has the measurements behind the defaults.
    """

    norm_floor: float = 0.5
    loss_ratio: float = 1.25
    loss_margin: float = 0.02

    def __post_init__(self) -> None:
        if not 0.0 <= self.norm_floor <= 1.0:
            raise UserError(f"norm_floor must lie in [0, 1], got {self.norm_floor}")
        if not self.loss_ratio >= 1.0 or not self.loss_margin >= 0.0:
            raise UserError(
                "loss_ratio must be at least 1 and loss_margin not negative, got "
                f"{self.loss_ratio} and {self.loss_margin}"
            )

    def judge(self, health: Health) -> Verdict:
        """Decides on a round; a function of what everyone knows, so that all decide alike.

        Args:
            health: of all workers.

        Returns:
            Who takes part.

        Raises:
            DivergedError: if no worker is finite.
        """
        sound = health.finite & ~torch.isinf(health.losses)
        reasons = {int(i): "parameters are not finite" for i in torch.where(~health.finite)[0]}
        if health.scores is not None:
            scored = torch.isfinite(health.scores).all(dim=1)
            for i in torch.where(sound & ~scored)[0]:
                reasons[int(i)] = "score is not finite"
            sound &= scored
        for i in torch.where(health.finite & torch.isinf(health.losses))[0]:
            reasons.setdefault(int(i), "loss is not finite")
        if not bool(sound.any()):
            raise DivergedError(
                f"all {len(sound)} workers have diverged ({_first(reasons)}); lower the learning "
                "rate, or resume from an earlier checkpoint"
            )
        active = sound & ~self._loses_too_much(health.losses, sound, reasons)
        return Verdict(active, self._believed(health, active), ~sound, reasons)

    def _loses_too_much(self, losses: Tensor, sound: Tensor, reasons: dict[int, str]) -> Tensor:
        known = torch.where(sound, losses, torch.nan)
        median = known.nanquantile(0.5)
        limit = median + (self.loss_ratio - 1.0) * median.abs() + self.loss_margin
        above = known > limit  # false where a loss, or every loss, is unknown
        for i in torch.where(above)[0]:
            reasons[int(i)] = f"loss {known[i]:.3g} is above {limit:.3g} (median {median:.3g})"
        return above

    def _believed(self, health: Health, active: Tensor) -> Tensor | None:
        if health.scores is None:
            return None
        kept = torch.where(active.unsqueeze(1), health.scores, torch.inf)
        return floor_at_median(kept, self.norm_floor) if health.are_norms else kept


def _first(reasons: dict[int, str]) -> str:
    worker = min(reasons)
    return f"worker {worker}: {reasons[worker]}"


def trusting(health: Health) -> Verdict:
    """The verdict where there is no guard: everyone takes part, as they are."""
    everyone = torch.ones_like(health.finite)
    return Verdict(everyone, health.scores, ~everyone, {})
