"""Groups of parameter tensors, their norms, and checks that several scores share."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from grawa.errors import UserError

Grouping = Callable[[Sequence[str]], tuple[int, ...]]
"""Parameter names -> the group of each, numbered from 0; parameters of a group share one weight."""


def check_decay(decay: float) -> None:
    """Refuses decay factors outside [0, 1)."""
    if not 0.0 <= decay < 1.0:
        raise UserError(f"decay must lie in [0, 1), got {decay}")


def check_one_group(groups: Sequence[int]) -> None:
    """Refuses several groups for a score that is one number for the whole model."""
    if max(groups) > 0:
        raise UserError("a loss is one number for the whole model: use one group (grawa.by_model)")


def sum_groups(norms: Tensor, groups: Sequence[int]) -> Tensor:
    """The norm of each group: the sum of its tensors' norms.

    Args:
        norms: (K, L).
        groups: the group of each of the L tensors, numbered from 0.

    Returns:
        (K, G).

    >>> sum_groups(torch.tensor([[3.0, 4.0, 1.0]]), (0, 0, 1))
    tensor([[7., 1.]])

    Source: Dimlioglu and Choromanska (2024), section 4: a model's gradient norm is the sum over
    its tensors.
    """
    index = _index(tuple(groups), norms.device)
    sums = norms.new_zeros(norms.shape[0], max(groups) + 1)
    return sums.index_add_(1, index, norms)


@lru_cache(maxsize=8)  # models come and go
def _index(groups: tuple[int, ...], device: torch.device) -> Tensor:
    """The groups as a tensor; kept, since the host waits for the copy to a device."""
    return torch.tensor(groups, device=device)


def by_model(names: Sequence[str]) -> tuple[int, ...]:
    """One group: all parameters of a model share a weight (MGRAWA).

    Returns:
        A zero for each name.

    >>> by_model(["0.weight", "0.bias"])
    (0, 0)
    """
    return (0,) * len(names)


def by_tensor(names: Sequence[str]) -> tuple[int, ...]:
    """One group per parameter tensor: each has a weight of its own (LGRAWA).

    Returns:
        0, 1, 2, ... for the names in order.

    >>> by_tensor(["0.weight", "0.bias"])
    (0, 1)
    """
    return tuple(range(len(names)))


def by_block(names: Sequence[str]) -> tuple[int, ...]:
    """One group per numbered module, such as a transformer block.

    A name's block is the part of it up to the first number, "layers.0" say. Parameters before the
    first block belong to the first one, those after or between blocks to the one before them.

    Returns:
        0, 0, 1, 1, ..., which never falls.

    >>> by_block(["emb.weight", "layers.0.up.weight", "layers.0.up.bias", "layers.1.up.weight",
    ...           "norm.weight"])
    (0, 0, 0, 1, 1)
    """
    groups: list[int] = []
    blocks: list[str] = []
    for name in names:
        parts = name.split(".")
        number = next((i for i, part in enumerate(parts) if part.isdecimal()), None)
        if number is not None:
            block = ".".join(parts[: number + 1])
            if not blocks or blocks[-1] != block:
                blocks.append(block)
        groups.append(max(0, len(blocks) - 1))
    return tuple(groups)
