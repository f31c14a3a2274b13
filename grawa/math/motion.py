"""How parameters move: pulls and copies, in place and for all leaves at once."""

import torch
from torch import Tensor
from torch.linalg import vector_norm

from grawa.math.leaves import Leaves, Rows, Stack


def pull_(params: Stack, target: Leaves, strength: float) -> None:
    """Moves every row toward the target: x <- (1 - strength) x + strength target.

    Args:
        params: name -> (K, *shape), moved in place.
        target: name -> shape.
        strength: 0 leaves the rows alone, 1 puts them on the target.

    >>> params = {"x": torch.tensor([[0.0], [4.0]])}
    >>> pull_(params, Leaves.copy_of({"x": torch.tensor([[2.0]])}), 0.5)
    >>> params["x"].flatten()
    tensor([1., 3.])
    """
    if strength >= 1.0:
        put_(params, target)
    elif strength > 0.0:
        torch._foreach_lerp_(*_in_pairs(params, target), strength)


def pull_and_push_(params: Stack, target: Leaves, pull: float, push: float) -> None:
    """Moves every row toward the target by a share, and away from it by a length.

        x <- x + pull (target - x) + push (x - target) / ||x - target||

    A row on the target is not pushed, since no direction leads away from it.

    Args:
        params: name -> (K, *shape), moved in place.
        target: name -> shape.
        pull: a share, in [0, 1].
        push: a length, not negative: of all leaves together.

    >>> params = {"x": torch.tensor([[0.0], [4.0]])}
    >>> pull_and_push_(params, Leaves.copy_of({"x": torch.tensor([[2.0]])}), 0.5, 0.25)
    >>> params["x"].flatten()
    tensor([0.7500, 3.2500])
    """
    if not push > 0.0:
        pull_(params, target, pull)
        return
    rows, targets = _in_pairs(params, target)
    away = torch._foreach_sub(rows, targets)
    parts = [vector_norm(a.flatten(1), dim=1, dtype=_wide(a)) for a in away]
    norms = vector_norm(torch.stack([part.to(parts[0]) for part in parts]), dim=0)  # (K,)
    shares = torch.where(norms > 0.0, push / norms, 0.0)
    pull_(params, target, pull)
    for part in away:
        part.mul_(shares.to(part).view(-1, *[1] * (part.dim() - 1)))
    torch._foreach_add_(rows, away)


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def put_(params: Stack, target: Leaves) -> None:
    """Copies the target into every row."""
    torch._foreach_copy_(*_in_pairs(params, target))


def _in_pairs(params: Stack, target: Leaves) -> tuple[list[Tensor], list[Tensor]]:
    """Rows and what they move to: whole blocks where there are some, else leaf by leaf."""
    blocks = params.blocks if isinstance(params, Rows) else []
    if not blocks:
        return list(params.values()), target.rows
    flats = zip(blocks, target.flats, strict=True)
    return blocks, [flat[: block.shape[1]].expand_as(block) for block, flat in flats]


def blend_(leaves: Leaves, toward: Leaves, share: float) -> None:
    """Leaves <- (1 - share) leaves + share toward, in place; `toward` may be of a narrower dtype.

    >>> a, b = (Leaves.copy_of({"x": torch.tensor([[v]])}) for v in (0.0, 10.0))
    >>> blend_(a, b, 0.2)
    >>> a["x"]
    tensor([2.])
    """
    ends = [end.to(flat.dtype) for flat, end in zip(leaves.flats, toward.flats, strict=True)]
    torch._foreach_lerp_(leaves.flats, ends, share)
