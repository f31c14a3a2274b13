"""Exponential moving averages that start from zero and are corrected for it."""

from typing import Any

import torch
from torch import Tensor


class Ema:
    """A bias-corrected exponential moving average of rows, one count per row.

        m <- decay m + (1 - decay) x,    value = m / (1 - decay^count)

    A row that holds a value that is not finite is passed over, so no NaN ever enters. Nothing is
    moved between devices: the average lives where the rows do.

    Args:
        decay: how much of the past is kept, in [0, 1).

    >>> ema = Ema(0.5)
    >>> ema.update(torch.tensor([[2.0]])); ema.update(torch.tensor([[float("nan")]]))
    >>> ema.update(torch.tensor([[8.0]]))
    >>> ema.value()  # (0.5 * 1.0 + 0.5 * 8.0) / 0.75
    tensor([[6.]])

    Source: Kingma and Ba (2015), "Adam", section 3, for the correction.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self._mean: Tensor | None = None
        self._count: Tensor | None = None

    @property
    def has_begun(self) -> bool:
        """Whether there is something to average."""
        return self._mean is not None

    def update(self, rows: Tensor) -> None:
        """Takes one row per worker, (K, C)."""
        if self._mean is None or self._count is None or self._mean.dtype != rows.dtype:
            self._mean = torch.zeros_like(rows)
            self._count = torch.zeros_like(rows[:, :1])
        if self._mean.device != rows.device:  # loaded from a checkpoint
            self._mean, self._count = self._mean.to(rows.device), self._count.to(rows.device)
        finite = torch.isfinite(rows.sum(dim=1, keepdim=True))
        moved = self._mean.lerp(rows, 1.0 - self.decay)
        self._mean = torch.where(finite, moved, self._mean)
        self._count += finite

    def value(self) -> Tensor:
        """The average.

        Returns:
            (K, C); NaN in a row that never had a finite value.

        Raises:
            RuntimeError: if `update` was never called.
        """
        if self._mean is None or self._count is None:
            raise RuntimeError("no step has been taken since the last round: nothing to average")
        return self._mean / (1.0 - self.decay**self._count)

    def restart(self) -> None:
        """Forgets everything."""
        if self._mean is not None and self._count is not None:
            self._mean.zero_()
            self._count.zero_()

    def state_dict(self) -> dict[str, Any]:
        """The average and its counts."""
        return {"mean": _copy(self._mean), "count": _copy(self._count)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self._mean, self._count = _copy(state["mean"]), _copy(state["count"])


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone()
