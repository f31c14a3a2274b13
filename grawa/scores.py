"""What workers report about themselves before a round."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from grawa.errors import UserError
from grawa.math.ema import Ema

TRAINING_DECAY = 0.85
"""Per local step; reproduces the published variant. 0.95 measured a little better."""

PROBE_DECAY = 0.9**8
"""Per round; the published 0.9 per probe batch with eight batches a round."""

Probe = Callable[[int], Tensor]
"""Gradient norms of the hosted workers on the i-th probe batch, the same for all N: (K, L)."""


def _check_decay(decay: float) -> None:
    if not 0.0 <= decay < 1.0:
        raise UserError(f"decay must lie in [0, 1), got {decay}")


def sum_groups(norms: Tensor, groups: Sequence[int]) -> Tensor:
    """The norm of each group: the sum of its tensors' norms.

    Args:
        norms: (K, L).
        groups: the group of each of the L tensors, numbered from 0.

    Returns:
        (K, G).

    >>> sum_groups(torch.tensor([[3.0, 4.0, 1.0]]), (0, 0, 1))
    tensor([[7., 1.]])

    Source: Dimlioglu and Choromanska (2024), section 4: a model's gradient norm is the sum over
    its tensors.
    """
    index = torch.tensor(groups, device=norms.device)
    sums = norms.new_zeros(norms.shape[0], max(groups) + 1)
    return sums.index_add_(1, index, norms)


@dataclass(frozen=True, kw_only=True)
class GradientNorms:
    """Norms of the training gradients, averaged over the local steps since the last round.

    They cost no extra pass. They compare workers fairly only where the workers' data are alike: a
    worker whose shard is easier has smaller gradients. Use `ProbeGradientNorms` for shards that
    differ in kind.

    Args:
        decay: how much of the average is kept at each local step.

    Source: Dimlioglu and Choromanska (2024), section 4; `docs/decisions.md` for the decay.
    """

    is_norm: ClassVar[bool] = True
    needs_gradients: ClassVar[bool] = True
    needs_losses: ClassVar[bool] = False

    decay: float = TRAINING_DECAY

    def __post_init__(self) -> None:
        _check_decay(self.decay)

    def tracker(self, groups: Sequence[int], num_hosted: int) -> "TrainingNormTracker":
        """See `Score.tracker`."""
        return TrainingNormTracker(self.decay, groups, num_hosted)


class TrainingNormTracker:
    """The running norms behind `GradientNorms`."""

    def __init__(self, decay: float, groups: Sequence[int], num_hosted: int) -> None:
        self._ema = Ema(decay)
        self._groups = tuple(groups)
        self._steps = 0
        self._last = torch.zeros(num_hosted, max(groups) + 1)

    def note_gradients(self, norms: Tensor) -> None:
        """See `Tracker.note_gradients`."""
        self._ema.update(norms)
        self._steps += 1

    def note_losses(self, losses: Tensor) -> None:
        """Losses don't count."""

    def read(self) -> Tensor:
        """See `Tracker.read`; the last round's scores if no step was made since, zeros at first."""
        if self._steps > 0:
            self._last = sum_groups(self._ema.value(), self._groups)
        return self._last

    def restart(self) -> None:
        """Each round averages its own local steps."""
        self._ema.restart()
        self._steps = 0

    def state_dict(self) -> dict[str, Any]:
        """See `Tracker.state_dict`."""
        return {**self._ema.state_dict(), "steps": self._steps, "last": self._last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Tracker.load_state_dict`."""
        self._ema.load_state_dict(state)
        self._steps, self._last = state["steps"], state["last"]


@dataclass(frozen=True, kw_only=True)
class ProbeGradientNorms:
    """Norms of the gradient on a probe batch that is the same for every worker, new each round.

    It costs one forward and backward pass a round. The batch must be drawn from all the training
    data; 64 samples or more. `grawa.GradientProbe` is one that works with any model.

    Args:
        probe: computes the hosted workers' norms, (K, L), when a round is due; it is given how
            many probes there were before.
        decay: how much of the average is kept at each round.

    Source: Dimlioglu and Choromanska (2024), section 4.
    Deviation: the authors' probe ran in train mode and so moved the BatchNorm statistics; ours
    runs in eval mode and changes nothing.
    """

    is_norm: ClassVar[bool] = True
    needs_gradients: ClassVar[bool] = False
    needs_losses: ClassVar[bool] = False

    probe: Probe
    decay: float = PROBE_DECAY

    def __post_init__(self) -> None:
        _check_decay(self.decay)

    def tracker(self, groups: Sequence[int], num_hosted: int) -> "ProbeNormTracker":
        """See `Score.tracker`."""
        return ProbeNormTracker(self.probe, self.decay, groups)


class ProbeNormTracker:
    """The running norms behind `ProbeGradientNorms`."""

    def __init__(self, probe: Probe, decay: float, groups: Sequence[int]) -> None:
        self._probe = probe
        self._ema = Ema(decay)
        self._groups = tuple(groups)
        self._count = 0

    def note_gradients(self, norms: Tensor) -> None:
        """Training gradients don't count."""

    def note_losses(self, losses: Tensor) -> None:
        """Losses don't count."""

    def read(self) -> Tensor:
        """Runs the probe and returns the average with it."""
        self._ema.update(sum_groups(self._probe(self._count), self._groups))
        self._count += 1
        return self._ema.value()

    def restart(self) -> None:
        """The average goes on over rounds."""

    def state_dict(self) -> dict[str, Any]:
        """See `Tracker.state_dict`."""
        return {**self._ema.state_dict(), "probes": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Tracker.load_state_dict`."""
        self._ema.load_state_dict(state)
        self._count = state["probes"]


@dataclass(frozen=True, kw_only=True)
class TrainingLoss:
    """The mean of the last training losses.

    Args:
        window: how many local steps.

    Source: Teng et al. (2019), section 2, which picks the leader by its loss; the window of 4 is
    in `docs/decisions.md`.
    """

    is_norm: ClassVar[bool] = False
    needs_gradients: ClassVar[bool] = False
    needs_losses: ClassVar[bool] = True

    window: int = 4

    def __post_init__(self) -> None:
        if self.window < 1:
            raise UserError(f"window must be at least 1, got {self.window}")

    def tracker(self, groups: Sequence[int], num_hosted: int) -> "LossTracker":
        """See `Score.tracker`."""
        if max(groups) > 0:
            raise UserError("a training loss belongs to the whole model: use one group")
        return LossTracker(self.window, num_hosted)


class LossTracker:
    """The last losses of each hosted worker."""

    def __init__(self, window: int, num_hosted: int) -> None:
        self._last = torch.full((num_hosted, window), torch.nan)

    def note_gradients(self, norms: Tensor) -> None:
        """Gradients don't count."""

    def note_losses(self, losses: Tensor) -> None:
        """See `Tracker.note_losses`."""
        last = self._last.to(losses)
        shifted = torch.cat([last[:, 1:], losses.unsqueeze(1)], dim=1)
        self._last = torch.where(losses.isnan().unsqueeze(1), last, shifted)

    def read(self) -> Tensor:
        """The means of finite losses, (K, 1); zero before the first, so that nobody is ahead."""
        finite = torch.where(torch.isfinite(self._last), self._last, torch.nan)
        none_yet = self._last.isnan().all(dim=1)
        return torch.where(none_yet, 0.0, finite.nanmean(dim=1)).unsqueeze(1)

    def restart(self) -> None:
        """The window goes on over rounds."""

    def state_dict(self) -> dict[str, Any]:
        """The losses in the window."""
        return {"last": self._last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Tracker.load_state_dict`."""
        self._last = state["last"]
