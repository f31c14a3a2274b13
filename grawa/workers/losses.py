"""Mean recent training losses of the hosted workers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

FEWEST = 32
"""Least number of losses in a mean, as far as there were so many: one batch says little."""


class RecentLosses:
    """Means of the losses since the last round; if these are few, of earlier ones too.

    Losses since the last round all have the same weight. If there are fewer than `FEWEST`, the
    mean before the round counts for the missing ones. Each fragment of the model has its own
    rounds, and so its own mean. Only the sums are on the device; the rest is on the host, which
    so need not wait for the device between rounds.

    Args:
        like: a number per hosted worker, (K,), on the device of the losses.
        num_fragments: P.

    >>> losses = RecentLosses(torch.zeros(1))
    >>> losses.note(torch.tensor([2.0]), slice(None)); losses.means(losses.sums())
    tensor([2.])
    >>> losses.restart(losses.means(losses.sums()))
    >>> losses.note(torch.tensor([4.0]), slice(None)); losses.means(losses.sums())
    tensor([3.])
    """

    def __init__(self, like: Tensor, num_fragments: int = 1) -> None:
        shape = num_fragments, len(like)
        self._sum = like.new_zeros(shape)
        self._past = torch.full(shape, torch.nan, dtype=like.dtype, device="cpu")
        self._count = torch.zeros(shape, dtype=torch.int64, device="cpu")
        self._past_count = torch.zeros(shape, dtype=torch.int64, device="cpu")

    def note(self, losses: Tensor, workers: slice) -> None:
        """Records the losses of a local step of these hosted workers, one each."""
        self._sum[:, workers].add_(losses.to(self._sum))
        self._count[:, workers] += 1

    def sums(self, fragment: int = 0) -> Tensor:
        """The sums since the fragment's last round, (K,), on the device of the losses."""
        return self._sum[fragment]

    def means(self, sums: Tensor, fragment: int = 0) -> Tensor:
        """The means, NaN if there was no loss, infinite if a new one is not finite.

        Args:
            sums: what `sums` returned, on the CPU, (K,).
            fragment: whose.

        Returns:
            (K,), on the CPU.
        """
        count, past = self._count[fragment], self._past[fragment]
        filled = torch.minimum(self._past_count[fragment], (FEWEST - count).clamp_min(0))
        earlier = torch.where(torch.isfinite(past), filled.to(sums), 0.0)
        counts = count.to(sums) + earlier
        means = (sums + torch.where(earlier > 0.0, past * earlier, 0.0)) / counts
        finite_or_inf = torch.where(torch.isfinite(means), means, torch.inf)
        return torch.where(counts > 0.0, finite_or_inf, torch.nan)

    def forget(self, workers: Sequence[int]) -> None:
        """Drops the losses of hosted workers that have been reset, which no longer apply."""
        for k in workers:
            self._sum[:, k] = 0.0
            self._past[:, k] = torch.nan
            self._count[:, k] = self._past_count[:, k] = 0

    def restart(self, means: Tensor, fragment: int = 0) -> None:
        """Called after a fragment's round: losses so far, with these means, become earlier ones."""
        self._past[fragment] = means
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
        """Restores what `state_dict` returned."""
        self._sum.copy_(state["sum"])
        self._past.copy_(state["past"])
        self._count.copy_(state["count"])
        self._past_count.copy_(state["past_count"])
