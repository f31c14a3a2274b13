"""Norms of the training gradients, averaged as a running root mean square."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from grawa.math.ema import Ema
from grawa.scores.groups import check_decay, sum_groups
from grawa.scores.protocol import Observed

RMS_DECAY = 0.99
"""Per local step, over rounds: the last hundred steps or so."""


@dataclass(frozen=True, kw_only=True)
class RmsGradientNorms:
    """Running root mean square of the training gradients' norms, over many rounds.

        m <- decay m + (1 - decay) n^2 at each local step,    score = sqrt(m / (1 - decay^steps))

    n is a group's norm, summed over its tensors. Squares give a noisy worker, whose norms vary, a
    larger score; and an average over many rounds varies less. Otherwise as `GradientNorms`.

    Args:
        decay: how much of the average is kept at each local step.

    Source: ours, after the second moment of Kingma and Ba (2015), "Adam".
    """

    is_norm: ClassVar[bool] = True
    needs_gradients: ClassVar[bool] = True
    norm_steps: ClassVar[int | None] = None
    needs_losses: ClassVar[bool] = False
    needs_center: ClassVar[bool] = False

    decay: float = RMS_DECAY

    def __post_init__(self) -> None:
        check_decay(self.decay)

    def tracker(
        self, groups: Sequence[int], num_hosted: int, num_fragments: int = 1
    ) -> "RmsNormTracker":
        """See `Score.tracker`."""
        return RmsNormTracker(self.decay, groups, num_hosted)


class RmsNormTracker:
    """Computes the running averages for `RmsGradientNorms`."""

    def __init__(self, decay: float, groups: Sequence[int], num_hosted: int) -> None:
        self._ema = Ema(decay)
        self._groups = tuple(groups)
        self._none_yet = torch.zeros(num_hosted, max(groups) + 1)

    def note_gradients(self, norms: Tensor, steps: int = 1) -> None:
        """See `Tracker.note_gradients`."""
        self._ema.update(sum_groups(norms, self._groups).square(), steps=steps)

    def note_losses(self, losses: Tensor) -> None:
        """Ignored: only gradients count."""

    def read(self, workers: Observed, fragment: int = 0, anew: bool = True) -> Tensor:
        """See `Tracker.read`; zeros before the first step."""
        return self._ema.value().sqrt() if self._ema.has_begun else self._none_yet

    def restart(self, fragment: int = 0) -> None:
        """Nothing to do: the average extends over rounds."""

    def state_dict(self) -> dict[str, Any]:
        """See `Tracker.state_dict`."""
        return self._ema.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Tracker.load_state_dict`."""
        workers, groups = self._none_yet.shape
        self._ema.load_state_dict(state, (workers, groups))
