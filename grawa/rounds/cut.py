"""Cutting a model into fragments: of nearly equal bytes, or as asked."""

from collections.abc import Sequence

from grawa.errors import UserError
from grawa.math.leaves import Stack, names_by_kind


def fragments(
    params: Stack, count: int, fragment_of: Sequence[int] | None = None
) -> list[list[str]]:
    """Assigns parameters to fragments.

    The parameters of a fragment lie next to each other in memory, so that each fragment's messages
    are few and long.

    Args:
        params: name -> (K, *shape).
        count: P, the number of fragments.
        fragment_of: the fragment of each parameter; by default they have nearly equal bytes.

    Returns:
        P lists of names, none empty; each name is in one of them.

    Raises:
        UserError: if there are fewer parameters than fragments.

    >>> import torch
    >>> fragments({name: torch.zeros(1, size) for name, size in zip("abcd", (4, 2, 2, 8))}, 2)
    [['a', 'b', 'c'], ['d']]
    """
    if fragment_of is not None:
        given: list[list[str]] = [[] for _ in range(count)]
        for name, fragment in zip(params, fragment_of, strict=True):
            given[fragment].append(name)
        return given
    names = [name for same_kind in names_by_kind(params).values() for name in same_kind]
    if not 1 <= count <= len(names):
        raise UserError(
            f"fragments must be at least 1 and at most the {len(names)} parameter tensors of the "
            f"model, got {count}"
        )
    cuts = _cuts([params[name][0].nbytes for name in names], count)
    return [names[a:b] for a, b in zip([0, *cuts], [*cuts, len(names)], strict=True)]


def _cuts(sizes: Sequence[int], count: int) -> list[int]:
    """Indices at which fragments begin, each as near to an equal share of bytes as possible."""
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
