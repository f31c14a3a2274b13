"""Whether rows are equal bit for bit, told from a number for each."""

from collections.abc import Iterable

import torch
from torch import Tensor

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""An integer dtype for each size of an element, in bytes."""

_BATCH = 2**20
"""Elements of a row that are looked at together, as whole numbers of eight bytes."""

_EXACT = 2**52 - 1
"""Whole numbers up to this one are exact in float64, in which workers report."""


def bits_of(tensor: Tensor) -> Tensor:
    """The same memory as integers, by which contents are compared bit for bit."""
    return tensor.view(_BITS[tensor.itemsize])


def digests(parts: Iterable[Tensor]) -> Tensor:
    """A number for each row, over all tensors, that changes with any of its bits.

    Args:
        parts: tensors of shape (K, ...), at least one.

    Returns:
        (K,), float64: equal for rows with the same bits, and different for others, but for a
        coincidence.

    >>> a = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0000002]])
    >>> first, same, other = digests([a]).tolist()
    >>> first == same, first == other
    (True, False)
    """
    total: Tensor | None = None
    for part in parts:
        bits = bits_of(part).reshape(len(part), -1)
        factors = 2 * torch.arange(min(_BATCH, bits.shape[1]), device=bits.device) + 1
        if total is None:
            total = bits.new_zeros(len(bits), dtype=torch.int64)
        for some in bits.split(_BATCH, dim=1):
            sums = (factors[: some.shape[1]] * some).sum(dim=1)  # so that order matters
            total = 31 * total + sums.to(total.device)  # and that of tensors as well
    assert total is not None, "there is a tensor"
    return (total & _EXACT).double()
