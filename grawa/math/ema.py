"""Bias-corrected exponential moving averages, also of rows that come now and then."""

from typing import Any

import torch
from torch import Tensor


class Ema:
    """Bias-corrected exponential moving averages of rows.

        m <- b^(n-1) m,  w <- b^(n-1) w      if the last row came n steps ago
        m <- b m + (1 - b) x
        w <- b w + 1 - b                     from zero; 1 - b^steps if a row comes at each step
        value = m / w

    So the value is the mean of the rows that came, by weights that fall by b, the decay, with each
    step. A row with a value that is not finite is skipped, so no NaN ever enters an average. The
    averages are on the device of the rows.

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
        self._weight: Tensor | None = None  # (F, K, 1)

    @property
    def has_begun(self) -> bool:
        """Whether `update` was called."""
        return self._mean is not None

    def update(self, rows: Tensor, copy: int | None = None, steps: int = 1) -> None:
        """Adds one row per worker.

        Args:
            rows: (K, C).
            copy: the average to update; all by default.
            steps: n, for how many steps these rows stand: those since the last ones.
        """
        chosen = slice(None) if copy is None else slice(copy, copy + 1)
        finite = torch.isfinite(rows.sum(dim=1, keepdim=True))
        for average, new in zip(self._fitting(rows), (rows, torch.ones_like(finite)), strict=True):
            own = average[chosen]
            kept = own if steps == 1 else own * self.decay ** (steps - 1)
            moved = kept.lerp(new.to(kept), 1.0 - self.decay)
            average[chosen] = torch.where(finite, moved, own)

    def _fitting(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The averages and weights, with the rows' dtype and device."""
        mean, weight = self._mean, self._weight
        if mean is None or weight is None or mean.dtype != rows.dtype:
            mean = rows.new_zeros(self._copies, *rows.shape)
            weight = rows.new_zeros(self._copies, len(rows), 1)
        if mean.device != rows.device:  # loaded from a checkpoint
            mean, weight = mean.to(rows.device), weight.to(rows.device)
        self._mean, self._weight = mean, weight
        return mean, weight

    def value(self, copy: int = 0) -> Tensor:
        """An average.

        Returns:
            (K, C); NaN in a row that never had a finite value.

        Raises:
            RuntimeError: if `update` was never called.
        """
        if self._mean is None or self._weight is None:
            raise RuntimeError("no row was added, so there is no average")
        return self._mean[copy] / self._weight[copy]

    def restart(self, copy: int = 0) -> None:
        """Starts an average anew."""
        if self._mean is not None and self._weight is not None:
            self._mean[copy].zero_()
            self._weight[copy].zero_()

    def state_dict(self) -> dict[str, Any]:
        """The averages and their weights."""
        return {"mean": _copy(self._mean), "weight": _copy(self._weight)}

    def load_state_dict(self, state: dict[str, Any], rows: tuple[int, int]) -> None:
        """Restores what `state_dict` returned.

        Args:
            state: what it returned.
            rows: K and C.

        Raises:
            ValueError: if it is of other rows.
        """
        for name, width in (("mean", rows[1]), ("weight", 1)):
            saved, form = state[name], (self._copies, rows[0], width)
            if saved is not None and (saved.shape != form or not saved.is_floating_point()):
                raise ValueError(f"{name} is {tuple(saved.shape)} {saved.dtype}, not {form}")
        self._mean, self._weight = _copy(state["mean"]), _copy(state["weight"])


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone()
