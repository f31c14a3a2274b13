"""What the training losses of the hosted workers have lately been, on average."""

from typing import Any

import torch
from torch import Tensor

FEWEST = 32
"""Over how many losses a mean is taken, where there were as many: one batch says little."""


class RecentLosses:
    """Means of the losses since the last round; where these are few, of earlier ones too.

    Losses since the last round all count alike. Where there are fewer than `FEWEST`, the mean of
    before the round stands for those that are missing.

    Args:
        like: a number per hosted worker, (K,), on the device of the losses.

    >>> losses = RecentLosses(torch.zeros(1))
    >>> losses.note(torch.tensor([2.0]), slice(None)); losses.read()
    tensor([2.])
    >>> losses.restart(); losses.note(torch.tensor([4.0]), slice(None)); losses.read()
    tensor([3.])
    """

    def __init__(self, like: Tensor) -> None:
        self._sum = torch.zeros_like(like)
        self._count = [0] * len(like)
        self._past = torch.full_like(like, torch.nan)
        self._past_count = [0] * len(like)

    def note(self, losses: Tensor, who: slice) -> None:
        """Takes the losses of a local step of these hosted workers, one each."""
        self._sum[who] += losses
        self._count[who] = [count + 1 for count in self._count[who]]

    def read(self) -> Tensor:
        """The means, (K,): NaN where there was no loss, infinite where a new one is not finite."""
        filled = [
            min(past, max(0, FEWEST - new))
            for new, past in zip(self._count, self._past_count, strict=True)
        ]
        earlier = torch.where(torch.isfinite(self._past), self._sum.new_tensor(filled), 0.0)
        counts = self._sum.new_tensor(self._count) + earlier
        means = (self._sum + torch.where(earlier > 0.0, self._past * earlier, 0.0)) / counts
        finite_or_inf = torch.where(torch.isfinite(means), means, torch.inf)
        return torch.where(counts > 0.0, finite_or_inf, torch.nan)

    def forget(self, worker: int) -> None:
        """A hosted worker has started again, so its losses until now say nothing of it."""
        self._sum[worker] = 0.0
        self._past[worker] = torch.nan
        self._count[worker] = self._past_count[worker] = 0

    def restart(self) -> None:
        """A round is over: losses until now are earlier ones."""
        self._past = self.read()
        self._past_count = [
            min(FEWEST, new + past) for new, past in zip(self._count, self._past_count, strict=True)
        ]
        self._sum.zero_()
        self._count = [0] * len(self._count)

    def state_dict(self) -> dict[str, Any]:
        """What must be saved so that training resumes bit for bit."""
        return {
            "sum": self._sum,
            "count": self._count,
            "past": self._past,
            "past_count": self._past_count,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self._sum.copy_(state["sum"])
        self._past.copy_(state["past"])
        self._count, self._past_count = list(state["count"]), list(state["past_count"])
