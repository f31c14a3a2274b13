"""Norms of whole workers, over all their parameter tensors."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.linalg import vector_norm

from grawa.math.leaves import wide

Norms = Callable[[Iterable[Tensor]], Tensor]
"""Tensors with a leading axis of K hosted workers -> the L2 norm of each worker, (K,)."""


def row_norms(parts: Iterable[Tensor]) -> Tensor:
    """L2 norm of each row over all tensors, computed in float32 or wider.

    Args:
        parts: tensors of shape (K, ...); a generator may free each one before it makes the next.

    Returns:
        (K,), on the first tensor's device.

    >>> row_norms([torch.tensor([[3.0], [0.0]]), torch.tensor([[4.0, 0.0], [1.0, 0.0]])])
    tensor([5., 1.])
    """
    norms = [vector_norm(p.reshape(len(p), -1), dim=1, dtype=wide(p.dtype)) for p in parts]
    widest = max((norm.dtype for norm in norms), key=lambda dtype: dtype.itemsize)
    stacked = torch.stack([norm.to(norms[0].device, widest) for norm in norms])
    total: Tensor = vector_norm(stacked, dim=0)
    return total
