"""A weighted mean, built up row by row."""

from collections.abc import Sequence

import torch
from torch import Tensor


class RunningMean:
    """A weighted mean of lists of tensors, folded in one list at a time.

        W <- W + w,    mean <- mean + (w / W) (row - mean)

    Rows that are equal give exactly that row, and a row with weight zero is never read, so it
    contributes nothing even if it holds NaN.

    Args:
        mean: L tensors, where the mean is kept; their contents are overwritten.

    >>> running = RunningMean([torch.empty(2)])
    >>> running.add([torch.tensor([1.0, 2.0])], [1.0])
    >>> running.add([torch.tensor([5.0, 6.0])], [3.0])
    >>> running.mean
    [tensor([4., 5.])]
    """

    def __init__(self, mean: Sequence[Tensor]) -> None:
        self.mean = list(mean)
        self._weights = [0.0] * len(self.mean)

    def add(self, row: Sequence[Tensor], weights: Sequence[float]) -> None:
        """Folds in one row of L tensors with its L weights."""
        first = [i for i, w in enumerate(weights) if w > 0 and self._weights[i] == 0]
        later = [i for i, w in enumerate(weights) if w > 0 and self._weights[i] > 0]
        self._weights = [total + w for total, w in zip(self._weights, weights, strict=True)]
        if first:
            torch._foreach_copy_([self.mean[i] for i in first], [row[i] for i in first])
        if later:
            torch._foreach_lerp_(
                [self.mean[i] for i in later],
                [row[i] for i in later],
                [weights[i] / self._weights[i] for i in later],
            )
