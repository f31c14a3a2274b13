"""Bias-corrected exponential moving averages."""

from typing import Any

import torch
from torch import Tensor


class Ema:
    """Bias-corrected exponential moving averages of rows, with a count for each row.

        m <- decay m + (1 - decay) x,    value = m / (1 - decay^count)

    A row with a value that is not finite is skipped, so no NaN ever enters an average. The averages
    are on the device of the rows.

    Args:
        decay: how much of the average is kept at each update, in [0, 1).
        copies: F, number of averages of the same rows; they may restart at different times.

    >>> ema = Ema(0.5)
    >>> ema.update(torch.tensor([[2.0]])); ema.update(torch.tensor([[float("nan")]]))
    >>> ema.update(torch.tensor([[8.0]]))
    >>> ema.value()  # (0.5 * 1.0 + 0.5 * 8.0) / 0.75
    tensor([[6.]])

    Source: Kingma and Ba (2015), "Adam", section 3, for the correction.
    """

    def __init__(self, decay: float, copies: int = 1) -> None:
        self.decay = decay
        self._copies = copies
        self._mean: Tensor | None = None  # (F, K, C)
        self._count: Tensor | None = None  # (F, K, 1)

    @property
    def has_begun(self) -> bool:
        """Whether `update` was called."""
        return self._mean is not None

    def update(self, rows: Tensor, copy: int | None = None) -> None:
        """Adds one row per worker.

        Args:
            rows: (K, C).
            copy: the average to update; all by default.
        """
        mean, count = self._fitting(rows)
        finite = torch.isfinite(rows.sum(dim=1, keepdim=True))
        if copy is None:
            self._mean = torch.where(finite, mean.lerp(rows, 1.0 - self.decay), mean)
            count += finite
        else:
            moved = mean[copy].lerp(rows, 1.0 - self.decay)
            mean[copy] = torch.where(finite, moved, mean[copy])
            count[copy] += finite

    def _fitting(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The averages and counts, with the rows' dtype and device."""
        mean, count = self._mean, self._count
        if mean is None or count is None or mean.dtype != rows.dtype:
            mean = rows.new_zeros(self._copies, *rows.shape)
            count = rows.new_zeros(self._copies, len(rows), 1)
        if mean.device != rows.device:  # loaded from a checkpoint
            mean, count = mean.to(rows.device), count.to(rows.device)
        self._mean, self._count = mean, count
        return mean, count

    def value(self, copy: int = 0) -> Tensor:
        """An average.

        Returns:
            (K, C); NaN in a row that never had a finite value.

        Raises:
            RuntimeError: if `update` was never called.
        """
        if self._mean is None or self._count is None:
            raise RuntimeError("no row was added, so there is no average")
        return self._mean[copy] / (1.0 - self.decay ** self._count[copy])

    def restart(self, copy: int = 0) -> None:
        """Starts an average anew."""
        if self._mean is not None and self._count is not None:
            self._mean[copy].zero_()
            self._count[copy].zero_()

    def state_dict(self) -> dict[str, Any]:
        """The averages and their counts."""
        return {"mean": _copy(self._mean), "count": _copy(self._count)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._mean, self._count = _copy(state["mean"]), _copy(state["count"])


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone()
