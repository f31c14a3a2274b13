"""How parameters move: pulls and copies, in place and for all leaves at once."""

import torch
from torch import Tensor

from grawa.stack import Leaves, Rows, Stack


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
    """Leaves <- (1 - share) leaves + share toward, in place.

    >>> a, b = (Leaves.copy_of({"x": torch.tensor([[v]])}) for v in (0.0, 10.0))
    >>> blend_(a, b, 0.2)
    >>> a["x"]
    tensor([2.])
    """
    torch._foreach_lerp_(leaves.flats, toward.flats, share)
