"""Fewer bits for a difference: what is sent, and what it says."""

from typing import Literal

import torch
from torch import Tensor

Precision = Literal["bf16", "fp16", "int8"]
"""What numbers travel in."""

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8}
_STEPS = 127  # of int8, to either side


class Codec:
    """Writes tensors with fewer bits, and reads them back.

    Integers have a scale for each tensor: its largest magnitude over 127.

    Args:
        precision: in what they are written.

    >>> codec = Codec("int8")
    >>> codes, scales = codec.encode([torch.tensor([1.0, -0.5, 0.001])])
    >>> codes
    [tensor([127, -64,   0], dtype=torch.int8)]
    >>> [round(value, 3) for value in codec.decode(codes, scales)[0].tolist()]
    [1.0, -0.504, 0.0]
    """

    def __init__(self, precision: Precision) -> None:
        self.dtype = _DTYPES[precision]
        self.has_scales = not self.dtype.is_floating_point

    def num_bytes(self, elements: int, tensors: int) -> int:
        """What so many elements of so many tensors take, with their scales."""
        return elements * self.dtype.itemsize + (4 * tensors if self.has_scales else 0)

    def encode(self, tensors: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Writes tensors.

        Args:
            tensors: M of them, float32, none empty.

        Returns:
            Their codes, and their scales, float32: (M,), or (0,) where there are none. A tensor
            that is not finite has a scale, or codes, that are not finite.
        """
        if not tensors:
            return [], torch.empty(0)
        if not self.has_scales:
            return [_cast(tensor, self.dtype) for tensor in tensors], tensors[0].new_empty(0)
        largest = torch.stack(torch._foreach_norm(tensors, ord=float("inf")))
        scales = largest / _STEPS
        by = torch.where(scales <= 0.0, torch.ones_like(scales), scales)
        levels = torch._foreach_div(tensors, list(by.unbind()))
        torch._foreach_round_(levels)
        return [level.to(self.dtype) for level in levels], scales

    def decode(self, codes: list[Tensor], scales: Tensor) -> list[Tensor]:
        """Reads what `encode` wrote.

        Returns:
            M tensors, float32.
        """
        values = [code.to(torch.float32) for code in codes]
        if self.has_scales and values:
            torch._foreach_mul_(values, list(scales.unbind()))
        return values


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """To the nearest number that there is; what is finite stays so."""
    most = torch.finfo(dtype).max
    return torch.where(torch.isfinite(tensor), tensor.clamp(-most, most), tensor).to(dtype)
