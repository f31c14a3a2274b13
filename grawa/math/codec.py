"""Encodes differences with fewer bits for sending, and decodes them."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Precision = Literal["bf16", "int8"]
"""Formats in which numbers can be sent."""

_DTYPES = {"bf16": torch.bfloat16, "int8": torch.int8}
_STEPS = 127  # the largest int8 of which the negative exists too


class Codec:
    """Encodes float32 tensors in 16 or 8 bits, and decodes them.

    "int8" has a scale for each tensor: its largest magnitude divided by 127.

    Args:
        precision: the format.

    >>> codec = Codec("int8")
    >>> codes, scales = [torch.empty(3, dtype=torch.int8)], torch.empty(1)
    >>> codec.encode([torch.tensor([1.0, -0.5, 0.001])], codes, scales)
    >>> codes
    [tensor([127, -64,   0], dtype=torch.int8)]
    >>> [round(value, 3) for value in codec.decode(codes, scales)[0].tolist()]
    [1.0, -0.504, 0.0]
    """

    def __init__(self, precision: Precision) -> None:
        self.dtype = _DTYPES[precision]
        self.has_scales = not self.dtype.is_floating_point

    def encode(self, tensors: Sequence[Tensor], codes: Sequence[Tensor], scales: Tensor) -> None:
        """Encodes tensors.

        Args:
            tensors: M of them, float32, none empty; at least one.
            codes: M tensors of the same shapes, overwritten.
            scales: overwritten, float32: (M,), or (0,) if the format has none. A tensor that is
                not finite gets a scale, or codes, that are not finite.
        """
        if not self.has_scales:
            torch._foreach_copy_(list(codes), list(tensors))
            return
        largest = torch.stack(torch._foreach_norm(list(tensors), ord=float("inf")))
        torch.div(largest, _STEPS, out=scales)
        by = torch.where(scales <= 0.0, torch.ones_like(scales), scales)
        levels = torch._foreach_div(list(tensors), list(by.unbind()))
        torch._foreach_round_(levels)
        torch._foreach_copy_(list(codes), levels)

    def decode(self, codes: Sequence[Tensor], scales: Tensor) -> list[Tensor]:
        """Decodes what `encode` wrote.

        Returns:
            M tensors, float32.
        """
        values = [code.to(torch.float32) for code in codes]
        if self.has_scales and values:
            torch._foreach_mul_(values, list(scales.unbind()))
        return values
