"""Norms of whole workers, over all their parameter tensors, and of single tensors."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor
from torch.linalg import vector_norm

from grawa.math.leaves import Stack, batches, names_by_kind, wide
from grawa.math.mean import CACHED

Norms = Callable[[Iterable[Tensor]], Tensor]
"""Tensors with a leading axis of K hosted workers -> the L2 norm of each worker, (K,)."""

_MOST_DIFFERENCES = 2**24
"""Most elements of a temporary at a time on a GPU; a larger tensor is one by itself."""


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


def tensor_distances(rows: Stack, leaves: Mapping[str, Tensor]) -> Tensor:
    """L2 distance of each row's tensors from the leaves, computed in float32 or wider.

    Args:
        rows: name -> (K, *shape).
        leaves: name -> shape; may have more names.

    Returns:
        (K, L), on the first tensor's device.

    >>> tensor_distances({"x": torch.tensor([[3.0, 4.0], [1.0, 0.0]])}, {"x": torch.zeros(2)})
    tensor([[5.],
            [1.]])
    """
    found: dict[str, Tensor] = {}
    for (dtype, device), names in names_by_kind(rows).items():
        sizes = [rows[name].numel() for name in names]
        parts = batches(sizes, CACHED if device.type == "cpu" else _MOST_DIFFERENCES)
        most = max(sum(sizes[part]) for part in parts)
        room = torch.empty(most, dtype=wide(dtype), device=device)
        for part in parts:
            own = [rows[name] for name in names[part]]
            spaces = room[: sum(sizes[part])].split(sizes[part])
            gaps = [space.view(row.shape) for space, row in zip(spaces, own, strict=True)]
            torch._foreach_copy_(gaps, own)
            torch._foreach_sub_(gaps, [leaves[name].unsqueeze(0) for name in names[part]])
            norms = torch._foreach_norm([row for gap in gaps for row in gap.unbind()])
            by_tensor = torch.stack(norms).view(len(own), -1)
            found.update(zip(names[part], by_tensor.unbind(), strict=True))
    first = next(iter(found.values()))
    widest = max((norm.dtype for norm in found.values()), key=lambda dtype: dtype.itemsize)
    return torch.stack([found[name].to(first.device, widest) for name in rows], dim=1)


def norms_over_shards(local: Tensor, norms: Norms) -> Tensor:
    """Norms of tensors over all shards, from those of this process's shards.

    Args:
        local: of any shape.
        norms: computes the norms of whole workers; each number counts as a worker of its own.

    Returns:
        The same shape.
    """
    return norms([local.reshape(-1, 1)]).view_as(local)
