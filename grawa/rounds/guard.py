"""The guard: decides before a round which workers take part, and limits their scores."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from grawa.errors import DivergedError, UserError
from grawa.math.weights import floor_at_median


class Health(NamedTuple):
    """What is known of all workers before a round; float64, on the CPU."""

    sizes: Tensor
    """(N,), L2 norms of the parameters; not finite if a parameter is not."""
    losses: Tensor
    """(N,), mean of recent training losses; NaN where none was recorded."""
    scores: Tensor | None
    """(N, G), smaller is better."""
    are_norms: bool = False
    """Whether the scores are norms, of which one near zero would get nearly all the weight."""
    new_steps: Tensor | None = None
    """(N,), local steps since the last round."""
    start_size: float = 0.0
    """Median over the workers of the parameters' L2 norm at the last round."""
    fit_steps: Tensor | None = None
    """(N,), local steps since it was last unfit, see `Verdict`; infinite if never."""
    dropped: Tensor | None = None
    """(N,), true for workers that are left out for good."""
    displacements: Tensor | None = None
    """(N,), L2 norms of the parameters minus the last center; NaN if they are not known."""


class Verdict(NamedTuple):
    """The guard's decision: which workers take part, with which scores."""

    active: Tensor
    """(N,), true for workers that take part in the center."""
    scores: Tensor | None
    """(N, G), finite; without meaning for workers that don't take part."""
    reset: Tensor
    """(N,), true for workers that must start again from the consensus."""
    unfit: Tensor
    """(N,), true for workers that are reset, and for those whose loss, or displacement, is too
    large."""
    left_out: dict[int, str]
    """Worker -> why."""


@dataclass(frozen=True, kw_only=True)
class Guard:
    """Keeps a worker that has gone wrong from ruining the others.

    A worker is *reset* if its parameters, loss or score are not finite, or its parameters are many
    times as large as the others' and have grown by more than its number of local steps explains: it
    has no part in the center, starts again from the consensus, and its optimizer's state is
    cleared. Of the others, a worker whose loss is far above the median (or, if asked for, whose
    displacement) is *left out* of the center, but still pulled to it. After either, a worker is
    *on probation*: it is left out until it has made `probation` local steps in which it was fit to
    take part, since its losses over the first steps from the consensus say little. If nobody else
    is fit, those on probation take part.

    Norms are raised to at least a fraction of their group's median, and to the whole median where
    the worker's loss is above the median loss. The reason: a worker that learns nothing, with a
    dead network or wrong labels, has small gradients too. It would get most of the weight as long
    as all losses are high and its own is not far above the others. Medians of losses and sizes are
    the lower of the two middle values: if the workers fall into two halves, the half with the
    smaller values sets the limit.

    Losses are known in `grawa train`, and in an `Averager` if you call `record_loss`. Without them
    no worker is left out for its loss, and small norms are limited by `norm_floor` only.
    `loss_margin` is in the units of the loss: where losses are far below it, as in many
    regressions, set it lower.

    Args:
        norm_floor: the smallest norm, as a fraction of the median; 0 turns it off.
        unearned_floor: the same for a worker whose loss is above the median; `norm_floor` applies
            if it is larger.
        loss_ratio: a worker is left out if its loss is above this many times the median ...
        loss_margin: ... plus this much; infinity turns it off.
        size_ratio: parameters may have this many times the median L2 norm before their worker is
            reset; infinity turns it off. Where workers make different numbers of steps, a norm may
            also have grown by this many times the median growth, times the square of the ratio of
            steps (which is how far a constant gradient carries heavy-ball momentum at most).
        displacement_ratio: a worker is left out, too, if its parameters have moved this many times
            as far from the last center as the median worker's; by default infinity, which turns it
            off. Needs a method with a center. More steps explain a longer way as for `size_ratio`.
        probation: local steps for which a worker must have been fit before it takes part again; 0
            turns probation off.
        report_after: a worker that has been left out of this many rounds in a row, of each
            fragment, is reported in a warning.
        drop: whether that worker is then left out for good. It is still pulled to the center, and
            its process still takes part in what all processes do together.

    Source: ours; `docs/decisions.md` has the measurements behind the defaults.
    """

    norm_floor: float = 0.5
    unearned_floor: float = 1.0
    loss_ratio: float = 2.0
    loss_margin: float = 0.3
    size_ratio: float = 3.0
    displacement_ratio: float = math.inf
    probation: int = 64
    report_after: int = 10
    drop: bool = False

    def __post_init__(self) -> None:
        for name in ("norm_floor", "unearned_floor"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UserError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if not self.loss_ratio >= 1.0:
            raise UserError(f"loss_ratio must be at least 1, got {self.loss_ratio}")
        if not self.loss_margin >= 0.0:
            raise UserError(f"loss_margin must not be negative, got {self.loss_margin}")
        for name in ("size_ratio", "displacement_ratio"):
            if not getattr(self, name) > 1.0:
                raise UserError(f"{name} must be above 1, got {getattr(self, name)}")
        for name, least in (("probation", 0), ("report_after", 1)):
            if not getattr(self, name) >= least:
                raise UserError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def judge(self, health: Health) -> Verdict:
        """Decides which workers take part; every process has the same input, so the same result.

        Args:
            health: of all workers.

        Returns:
            The decision.

        Raises:
            DivergedError: if no worker is finite that has not been dropped.
        """
        reasons = _not_finite(health)
        sound = torch.tensor([i not in reasons for i in range(len(health.sizes))])
        kept = torch.ones_like(sound) if health.dropped is None else ~health.dropped
        if not bool((sound & kept).any()):
            raise DivergedError(_all_have_diverged(kept, reasons))
        growth = (health.sizes - health.start_size).abs()
        explained = _explained(health.new_steps, growth, sound, self.size_ratio)
        large = self._above(
            health.sizes, sound & ~explained, self.size_ratio, 0.0, "parameter norm", reasons,
            median_of=sound & kept,
        )  # fmt: skip
        sound &= ~large
        far = self._far(health, sound, reasons, median_of=sound & kept)
        above = self._above(
            health.losses, sound, self.loss_ratio, self.loss_margin, "loss", reasons,
            median_of=sound & kept,
        )  # fmt: skip
        fit = sound & ~above & ~far
        active = self._proven(health, fit & kept, reasons)
        for i in torch.where(~kept)[0].tolist():
            reasons[i] = f"dropped; {reasons[i]}" if i in reasons else "dropped"
        return Verdict(active, self._limited_scores(health, active), ~sound, ~fit, reasons)

    @staticmethod
    def _above(
        values: Tensor,
        among: Tensor,
        ratio: float,
        margin: float,
        name: str,
        reasons: dict[int, str],
        *,
        median_of: Tensor,
    ) -> Tensor:
        """Workers whose value is far above the median: (N,), false where a value is not known."""
        known = torch.where(among, values, torch.nan)
        median = torch.where(median_of, values, torch.nan).nanmedian()
        limit = median + (ratio - 1.0) * median.abs() + margin
        above = (known > limit) & (limit.abs() > 0.0)  # a median of zero gives no scale
        for i in torch.where(above)[0].tolist():
            reasons[i] = f"{name} {known[i]:.3g} is above {limit:.3g} (median {median:.3g})"
        return above

    def _proven(self, health: Health, fit: Tensor, reasons: dict[int, str]) -> Tensor:
        """Of fit workers those that are not on probation, (N,); if all are, all of them."""
        steps = health.fit_steps
        proven = fit if steps is None else fit & (steps >= self.probation)
        if steps is None or not bool(proven.any()):
            return fit
        for i in torch.where(fit & ~proven)[0].tolist():
            reasons[i] = f"on probation, fit for {steps[i]:.0f} of {self.probation} local steps"
        return proven

    def _far(
        self, health: Health, sound: Tensor, reasons: dict[int, str], *, median_of: Tensor
    ) -> Tensor:
        """Workers that have moved much further from the center than the others, (N,)."""
        moved, ratio = health.displacements, self.displacement_ratio
        if moved is None or ratio == math.inf:
            return torch.zeros_like(sound)
        among = sound & ~_explained(health.new_steps, moved, sound, ratio)
        return self._above(moved, among, ratio, 0.0, "displacement", reasons, median_of=median_of)

    def _limited_scores(self, health: Health, active: Tensor) -> Tensor | None:
        if health.scores is None:
            return None
        scores = torch.where(torch.isfinite(health.scores), health.scores, 0.0)
        if not health.are_norms:
            return scores
        losses = torch.where(active, health.losses, torch.nan)
        floors = scores.new_full((len(scores), 1), self.norm_floor)
        floors[losses > losses.nanmedian()] = max(self.norm_floor, self.unearned_floor)
        return floor_at_median(scores, floors, active)


def _explained(steps: Tensor | None, growth: Tensor, sound: Tensor, ratio: float) -> Tensor:
    """Workers that have changed by no more than their number of steps explains, (N,).

    Args:
        steps: of each worker since the last round, (N,), if they are known.
        growth: by how much each has changed, (N,).
        sound: workers that count in the medians, (N,).
        ratio: how many times the median change is explained with as many steps as the median.

    Returns:
        False for all if the steps are not known.
    """
    if steps is None:
        return torch.zeros_like(sound)
    middle = torch.where(sound, growth, torch.nan).nanmedian()
    more = steps / torch.where(sound, steps, torch.nan).nanmedian()
    idle = torch.isinf(more)  # the median worker has made no step
    return (more > 1.0) & (idle | (growth <= ratio * middle * more.square()))


def _not_finite(health: Health) -> dict[int, str]:
    """Worker -> which of its values is not finite; only workers that have one."""
    reasons: dict[int, str] = {}
    checks = [("parameters are", torch.isfinite(health.sizes))]
    if health.scores is not None:
        checks.append(("score is", torch.isfinite(health.scores).all(dim=1)))
    checks.append(("loss is", ~torch.isinf(health.losses)))  # NaN means that it is not known
    for what, finite in checks:
        for i in torch.where(~finite)[0].tolist():
            reasons.setdefault(i, f"{what} not finite")
    return reasons


def _all_have_diverged(kept: Tensor, reasons: dict[int, str]) -> str:
    first = int(torch.where(kept)[0][0])
    dropped = len(kept) - int(kept.sum())
    those = f"all {len(kept)} workers" if not dropped else f"all workers but {dropped} dropped ones"
    return (
        f"{those} have diverged (worker {first}: {reasons[first]}); lower the learning rate, or "
        "resume from an earlier checkpoint"
    )


def trusting(health: Health) -> Verdict:
    """The verdict without a guard: every worker takes part, and scores stay as they are."""
    everyone = torch.ones_like(health.sizes, dtype=torch.bool)
    return Verdict(everyone, health.scores, ~everyone, ~everyone, {})
