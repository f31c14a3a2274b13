"""Cutting a model into fragments of nearly equal bytes."""

from collections.abc import Sequence

from grawa.errors import UserError
from grawa.math.leaves import Stack, names_by_kind


def fragments(params: Stack, count: int) -> list[list[str]]:
    """Which leaves are synchronised together.

    Leaves of a fragment lie next to each other in memory, so that each fragment's messages are
    few and long.

    Args:
        params: name -> (K, *shape).
        count: P.

    Returns:
        P lists of names, none empty, together all of them.

    Raises:
        UserError: if there are fewer parameters than fragments.

    >>> import torch
    >>> fragments({name: torch.zeros(1, size) for name, size in zip("abcd", (4, 2, 2, 8))}, 2)
    [['a', 'b', 'c'], ['d']]
    """
    names = [name for alike in names_by_kind(params).values() for name in alike]
    if not 1 <= count <= len(names):
        raise UserError(
            f"fragments must be at least 1 and at most the {len(names)} parameter tensors of the "
            f"model, got {count}"
        )
    cuts = _cuts([params[name][0].nbytes for name in names], count)
    return [names[a:b] for a, b in zip([0, *cuts], [*cuts, len(names)], strict=True)]


def _cuts(sizes: Sequence[int], count: int) -> list[int]:
    """Where to cut, each cut as near to an equal share as leaves allow."""
    ends = [0]
    for size in sizes:
        ends.append(ends[-1] + size)
    cuts: list[int] = []
    for part in range(1, count):
        wanted = ends[-1] * part / count
        least = cuts[-1] + 1 if cuts else 1
        most = len(sizes) - (count - part)
        cuts.append(min(range(least, most + 1), key=lambda cut: abs(ends[cut] - wanted)))
    return cuts
