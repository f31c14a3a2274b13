"""Norms of the training gradients since the last round."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from grawa.math.ema import Ema
from grawa.scores.groups import check_decay, sum_groups
from grawa.scores.protocol import Observed

TRAINING_DECAY = 0.85
"""Per local step; reproduces the published variant. 0.95 gave slightly better results."""


_LEFT_OUT = 0.02
"""Most weight, in an average, of the steps whose norms need not be noted; which changes workers'
weights by less than 1% on average: `docs/decisions.md`."""


@dataclass(frozen=True, kw_only=True)
class GradientNorms:
    """Norms of the training gradients, averaged over the local steps since the last round.

        m <- decay m + (1 - decay) n    at each local step,    score = m / (1 - decay^steps)

    They cost no extra pass. Earlier steps weigh little, so only the norms of the last `norm_steps`
    before a round are noted; and one in as many before that, for rounds that nobody could foresee.
    They compare workers fairly only if the workers' data have the same
    distribution, since a worker whose data are easier has smaller gradients; use `ProbeNorms`
    otherwise.

    Args:
        decay: how much of the average is kept at each local step.

    Source: Dimlioglu and Choromanska (2024), section 4; `docs/decisions.md` for the decay.
    """

    is_norm: ClassVar[bool] = True
    needs_gradients: ClassVar[bool] = True
    needs_losses: ClassVar[bool] = False
    needs_center: ClassVar[bool] = False

    decay: float = TRAINING_DECAY

    def __post_init__(self) -> None:
        check_decay(self.decay)

    @property
    def norm_steps(self) -> int:
        """Of how many local steps before a round norms are noted: 25 by default.

        Returns:
            So many that those before them would have a weight of at most 0.02.
        """
        if self.decay <= _LEFT_OUT:
            return 1
        return math.ceil(math.log(_LEFT_OUT) / math.log(self.decay))

    def tracker(
        self, groups: Sequence[int], num_hosted: int, num_fragments: int = 1
    ) -> "TrainingNormTracker":
        """See `Score.tracker`."""
        return TrainingNormTracker(self.decay, groups, num_hosted, num_fragments)


class TrainingNormTracker:
    """Computes the running averages for `GradientNorms`, one for each fragment."""

    def __init__(
        self, decay: float, groups: Sequence[int], num_hosted: int, num_fragments: int
    ) -> None:
        self._ema, self._rows = Ema(decay, num_fragments), (num_hosted, len(groups))
        self._groups = tuple(groups)
        self._steps = [0] * num_fragments
        self._last = [torch.zeros(num_hosted, max(groups) + 1) for _ in range(num_fragments)]

    def note_gradients(self, norms: Tensor, steps: int = 1) -> None:
        """See `Tracker.note_gradients`."""
        self._ema.update(norms, steps=steps)
        self._steps = [steps + 1 for steps in self._steps]

    def note_losses(self, losses: Tensor) -> None:
        """Ignored: only gradients count."""

    def read(self, workers: Observed, fragment: int = 0, anew: bool = True) -> Tensor:
        """See `Tracker.read`; the last scores if no step was made since, zeros before the first."""
        if self._steps[fragment] > 0:
            self._last[fragment] = sum_groups(self._ema.value(fragment), self._groups)
        return self._last[fragment]

    def restart(self, fragment: int = 0) -> None:
        """Begins a new average, since each round averages its own local steps."""
        self._ema.restart(fragment)
        self._steps[fragment] = 0

    def state_dict(self) -> dict[str, Any]:
        """See `Tracker.state_dict`."""
        return {**self._ema.state_dict(), "steps": list(self._steps), "last": list(self._last)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Tracker.load_state_dict`."""
        self._ema.load_state_dict(state, self._rows)
        self._steps, self._last = list(state["steps"]), list(state["last"])
