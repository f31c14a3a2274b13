"""Recent training losses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from grawa.errors import UserError
from grawa.scores.groups import check_one_group
from grawa.scores.protocol import Observed

_MOST = 10**6
"""Losses that are kept; all of them move at every step."""


@dataclass(frozen=True, kw_only=True)
class TrainingLoss:
    """The mean of the last training losses.

    Args:
        window: the number of losses.

    Source: Teng et al. (2019), section 2, which picks the leader by its loss; `docs/decisions.md`
    says why the window is 4.
    """

    is_norm: ClassVar[bool] = False
    needs_gradients: ClassVar[bool] = False
    norm_steps: ClassVar[int | None] = None
    needs_losses: ClassVar[bool] = True
    needs_center: ClassVar[bool] = False

    window: int = 4

    def __post_init__(self) -> None:
        if self.window < 1:
            raise UserError(f"window must be at least 1, got {self.window}")
        if self.window > _MOST:
            raise UserError(f"window must be at most {_MOST}, got {self.window}")

    def tracker(
        self, groups: Sequence[int], num_hosted: int, num_fragments: int = 1
    ) -> "LossTracker":
        """See `Score.tracker`."""
        check_one_group(groups)
        return LossTracker(self.window, num_hosted)


class LossTracker:
    """The last losses of each hosted worker."""

    def __init__(self, window: int, num_hosted: int) -> None:
        self._last = torch.full((num_hosted, window), torch.nan)

    def note_gradients(self, norms: Tensor, steps: int = 1) -> None:
        """Ignored: only losses count."""

    def note_losses(self, losses: Tensor) -> None:
        """See `Tracker.note_losses`."""
        last = self._last.to(losses)
        shifted = torch.cat([last[:, 1:], losses.unsqueeze(1)], dim=1)
        self._last = torch.where(losses.isnan().unsqueeze(1), last, shifted)

    def read(self, workers: Observed, fragment: int = 0, anew: bool = True) -> Tensor:
        """The means of finite losses, (K, 1); zero for all before the first loss."""
        finite = torch.where(torch.isfinite(self._last), self._last, torch.nan)
        none_yet = self._last.isnan().all(dim=1)
        return torch.where(none_yet, 0.0, finite.nanmean(dim=1)).unsqueeze(1)

    def restart(self, fragment: int = 0) -> None:
        """Nothing to do: the window extends over rounds."""

    def state_dict(self) -> dict[str, Any]:
        """The losses in the window."""
        return {"last": self._last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Tracker.load_state_dict`."""
        self._last = state["last"]
