"""A weighted mean, computed one row at a time."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from grawa.math.leaves import batches, wide

CACHED = 2**17
"""Elements of a sum that stay in a core's cache while rows are added to it."""


def weighted_mean_(
    mean: Sequence[Tensor],
    rows: Iterable[Sequence[Tensor]],
    weights: Iterable[Sequence[float]],
) -> None:
    """The weighted mean of rows of L tensors, computed one row at a time.

        W <- W + w,    mean <- mean + (w / W) (row - mean)

    Rows that are equal give exactly that row, and a tensor with weight zero is never read, so it
    contributes nothing even if it holds NaN. 16-bit tensors are summed in float32 and rounded
    once.

    Args:
        mean: L tensors, overwritten with the mean; one without weight in any row is not changed.
        rows: L tensors each, of the same shapes and dtypes, on any device.
        weights: L numbers for each row, not negative.

    >>> mean = [torch.empty(2)]
    >>> rows = [[torch.tensor([1.0, 2.0])], [torch.tensor([5.0, 6.0])]]
    >>> weighted_mean_(mean, rows, [[1.0], [3.0]])
    >>> mean
    [tensor([4., 5.])]
    """
    own_rows, own_weights = list(rows), list(weights)
    sizes = [x.numel() for x in mean]
    # On a GPU all at once, since each operation there has a cost of its own.
    on_cpu = all(x.device.type == "cpu" for x in mean)
    for some in batches(sizes, CACHED if on_cpu else sum(sizes)):
        _mean_(mean[some], [row[some] for row in own_rows], [w[some] for w in own_weights])


def _mean_(
    mean: Sequence[Tensor], rows: Sequence[Sequence[Tensor]], weights: Sequence[Sequence[float]]
) -> None:
    sums = [torch.empty_like(x, dtype=wide(x.dtype)) if x.itemsize < 4 else x for x in mean]
    totals = [0.0] * len(sums)
    for row, own in zip(rows, weights, strict=True):
        first = [i for i, w in enumerate(own) if w > 0 and totals[i] == 0]
        later = [i for i, w in enumerate(own) if w > 0 and totals[i] > 0]
        totals = [total + w for total, w in zip(totals, own, strict=True)]
        if first:
            torch._foreach_copy_([sums[i] for i in first], [row[i] for i in first])
        if later:
            torch._foreach_lerp_(
                [sums[i] for i in later],
                [row[i].to(sums[i]) for i in later],
                [own[i] / totals[i] for i in later],
            )
    rounded = [i for i, total in enumerate(totals) if total > 0 and sums[i] is not mean[i]]
    if rounded:
        torch._foreach_copy_([mean[i] for i in rounded], [sums[i] for i in rounded])
