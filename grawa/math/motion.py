"""Moves parameters: pulls and copies, in place and for all tensors at once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from grawa.math.leaves import Leaves, Rows, Stack, batches
from grawa.math.norms import Norms, row_norms

_MOST_WIDENED = 2**24
"""Most elements of which a temporary float32 copy is made at a time."""


def pull_(params: Stack, target: Leaves, strength: float) -> None:
    """Moves every row toward the target: x <- (1 - strength) x + strength target.

    Args:
        params: name -> (K, *shape), moved in place.
        target: name -> shape.
        strength: 0 changes nothing, 1 copies the target. For 16-bit rows with `lost`, the rounding
            error of a move is added to the next one.

    >>> params = {"x": torch.tensor([[0.0], [4.0]])}
    >>> pull_(params, Leaves.copy_of({"x": torch.tensor([[2.0]])}), 0.5)
    >>> params["x"].flatten()
    tensor([1., 3.])
    """
    if strength >= 1.0:
        put_(params, target)
    elif strength > 0.0 and isinstance(params, Rows) and params.lost:
        _pull_carrying_(params, params.lost, target, strength)
    elif strength > 0.0:
        torch._foreach_lerp_(*_in_pairs(params, target), strength)


def _pull_carrying_(params: Rows, lost: Stack, target: Leaves, strength: float) -> None:
    """As `pull_`; the rounding error of 16-bit rows is added to their next move."""
    exact = [name for name in params if name not in lost]
    if exact:
        rows, targets = [params[n] for n in exact], [target[n].unsqueeze(0) for n in exact]
        torch._foreach_lerp_(rows, targets, strength)
    names = list(lost)
    for some in batches([lost[name].numel() for name in names], _MOST_WIDENED):
        own = [params[name] for name in names[some]]
        there = [target[n].expand_as(row) for n, row in zip(names[some], own, strict=True)]
        rest = [lost[name] for name in names[some]]
        torch._foreach_add_(rest, torch._foreach_sub(there, own), alpha=strength)
        moved = torch._foreach_add(rest, own)  # float32
        torch._foreach_copy_(own, moved)
        torch._foreach_sub_(moved, own)
        torch._foreach_copy_(rest, moved)


def pull_and_push_(
    params: Stack, target: Leaves, pull: float, push: float, norms: Norms = row_norms
) -> None:
    """Moves every row toward the target by a fraction, and away from it by a length.

        x <- x + pull (target - x) + push (x - target) / ||x - target||

    A row that equals the target is not pushed, since the direction is undefined.

    Args:
        params: name -> (K, *shape), moved in place.
        target: name -> shape.
        pull: a fraction, in [0, 1].
        push: a length in parameter space, over all tensors; not negative.
        norms: computes the norms of whole workers.

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
    lengths = norms(away)  # (K,)
    shares = torch.where(lengths > 0.0, push / lengths, 0.0)
    pull_(params, target, pull)
    for part in away:
        part.mul_(shares.to(part).view(-1, *[1] * (part.dim() - 1)))
    torch._foreach_add_(rows, away)


def put_(params: Stack, target: Leaves) -> None:
    """Copies the target into every row."""
    torch._foreach_copy_(*_in_pairs(params, target))


def _in_pairs(params: Stack, target: Leaves) -> tuple[list[Tensor], list[Tensor]]:
    """Rows and their targets: whole blocks if there are any, otherwise tensor by tensor."""
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


def stretch_(leaves: Leaves, origin: Leaves, factors: Sequence[float]) -> None:
    """Leaves <- origin + factor (leaves - origin), in place; a factor of 1 changes nothing.

    Args:
        leaves: name -> shape.
        origin: the same names and shapes.
        factors: one for each leaf.

    >>> a, b = (Leaves.copy_of({"x": torch.tensor([[v]])}) for v in (3.0, 1.0))
    >>> stretch_(a, b, [0.5])
    >>> a["x"]
    tensor([2.])
    """
    changed = {n: f for n, f in zip(leaves, factors, strict=True) if f < 1.0 or f > 1.0}
    if not changed:
        return
    own, origins = [leaves[name] for name in changed], [origin[name] for name in changed]
    torch._foreach_sub_(own, origins)
    torch._foreach_mul_(own, list(changed.values()))
    torch._foreach_add_(own, origins)
