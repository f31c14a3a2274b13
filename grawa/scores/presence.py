"""Who takes part."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Presence:
    """Nothing but that a worker takes part: zero for all who do.

    For strategies that weight workers by something else, and must know who is left out.
    """

    is_norm: ClassVar[bool] = False
    needs_gradients: ClassVar[bool] = False
    needs_losses: ClassVar[bool] = False

    def tracker(self, groups: Sequence[int], num_hosted: int) -> "PresenceTracker":
        """See `Score.tracker`."""
        return PresenceTracker(max(groups) + 1, num_hosted)


class PresenceTracker:
    """Who is here, is here."""

    def __init__(self, num_groups: int, num_hosted: int) -> None:
        self._present = torch.zeros(num_hosted, num_groups)

    def note_gradients(self, norms: Tensor) -> None:
        """Gradients don't count."""

    def note_losses(self, losses: Tensor) -> None:
        """Losses don't count."""

    def read(self, anew: bool = True) -> Tensor:
        """Zeros, (K, G)."""
        return self._present

    def restart(self) -> None:
        """There is nothing to start again."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes nothing back."""
