"""What the training losses of the hosted workers have lately been, on average."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

FEWEST = 32
"""Over how many losses a mean is taken, where there were as many: one batch says little."""


class RecentLosses:
    """Means of the losses since the last round; where these are few, of earlier ones too.

    Losses since the last round all have the same weight. Where there are fewer than `FEWEST`, the
    mean of before the round stands for those that are missing. Each fragment of the model has
    rounds of its own, and so a mean of its own.

    Args:
        like: a number per hosted worker, (K,), on the device of the losses.
        num_fragments: P.

    >>> losses = RecentLosses(torch.zeros(1))
    >>> losses.note(torch.tensor([2.0]), slice(None)); losses.read()
    tensor([2.])
    >>> losses.restart(); losses.note(torch.tensor([4.0]), slice(None)); losses.read()
    tensor([3.])
    """

    def __init__(self, like: Tensor, num_fragments: int = 1) -> None:
        shape = num_fragments, len(like)
        self._sum = like.new_zeros(shape)
        self._past = like.new_full(shape, torch.nan)
        # Counted on the host: nothing waits for the device.
        self._count = torch.zeros(shape, dtype=torch.int64, device="cpu")
        self._past_count = torch.zeros(shape, dtype=torch.int64, device="cpu")

    def note(self, losses: Tensor, workers: slice) -> None:
        """Takes the losses of a local step of these hosted workers, one each."""
        self._sum[:, workers] += losses
        self._count[:, workers] += 1

    def read(self, fragment: int = 0) -> Tensor:
        """The means, (K,): NaN where there was no loss, infinite where a new one is not finite."""
        count, past = self._count[fragment], self._past[fragment]
        filled = torch.minimum(self._past_count[fragment], (FEWEST - count).clamp_min(0))
        total = self._sum[fragment]
        earlier = torch.where(torch.isfinite(past), filled.to(total), 0.0)
        counts = count.to(total) + earlier
        means = (total + torch.where(earlier > 0.0, past * earlier, 0.0)) / counts
        finite_or_inf = torch.where(torch.isfinite(means), means, torch.inf)
        return torch.where(counts > 0.0, finite_or_inf, torch.nan)

    def forget(self, workers: Sequence[int]) -> None:
        """Hosted workers have started again, so their losses until now say nothing of them."""
        for k in workers:
            self._sum[:, k] = 0.0
            self._past[:, k] = torch.nan
            self._count[:, k] = self._past_count[:, k] = 0

    def restart(self, fragment: int = 0) -> None:
        """A fragment's round is over: losses until now are earlier ones."""
        self._past[fragment] = self.read(fragment)
        counts = self._count[fragment] + self._past_count[fragment]
        self._past_count[fragment] = counts.clamp_max(FEWEST)
        self._sum[fragment] = 0.0
        self._count[fragment] = 0

    def state_dict(self) -> dict[str, Any]:
        """What must be saved so that training resumes bit for bit."""
        return {
            "sum": self._sum.clone(),
            "count": self._count.clone(),
            "past": self._past.clone(),
            "past_count": self._past_count.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self._sum.copy_(state["sum"])
        self._past.copy_(state["past"])
        self._count.copy_(state["count"])
        self._past_count.copy_(state["past_count"])
