"""Encodes differences with fewer bits for sending, and decodes them."""

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from grawa.errors import UserError
from grawa.math.top_k import TopK

Precision = Literal["bf16", "int8"] | TopK
"""How differences can be sent."""

NAMED: Mapping[str, Precision] = {"bf16": "bf16", "int8": "int8", "topk": TopK()}
"""Their names on the command line, with the usual options."""

_STEPS = 127  # the largest int8 of which the negative exists too


class Codec(Protocol):
    """Encodes float32 tensors in fewer bits, and decodes them."""

    @property
    def loses(self) -> bool:
        """Whether so much is lost that it is added to what is sent next."""
        ...

    @property
    def is_sparse(self) -> bool:
        """Whether most numbers are not sent at all."""
        ...

    def num_bytes(self, sizes: Sequence[int]) -> int:
        """The bytes of a message, not rounded up to anything.

        Args:
            sizes: of the tensors that are encoded together, none empty.
        """
        ...

    def encode(self, tensors: Sequence[Tensor], message: Tensor) -> None:
        """Encodes tensors together.

        Args:
            tensors: M of them, float32, one-dimensional, none empty; at least one.
            message: overwritten, uint8, at least as long as `num_bytes` says. What is decoded from
                it is not finite if a tensor is not.
        """
        ...

    def decode(self, message: Tensor, sizes: Sequence[int]) -> list[Tensor]:
        """Decodes what `encode` wrote.

        Args:
            message: as `encode` left it.
            sizes: of the tensors that were encoded; at least one.

        Returns:
            M tensors, float32.
        """
        ...


def check_precision(precision: object) -> None:
    """Refuses what is neither `None` nor a way to send differences."""
    if precision not in (None, "bf16", "int8") and not isinstance(precision, TopK):
        raise UserError(
            f"comm_dtype must be None or one of 'bf16', 'int8' and grawa.TopK(), got {precision!r}"
        )


def codec_of(precision: Precision) -> Codec:
    """What encodes differences.

    Args:
        precision: how they are sent.

    Returns:
        The codec.
    """
    if isinstance(precision, TopK):
        return precision
    return Half() if precision == "bf16" else Int8()


class Half:
    """Encodes in bfloat16.

    >>> codec, message = Half(), torch.empty(4, dtype=torch.uint8)
    >>> codec.encode([torch.tensor([1.0, 1 / 3])], message)
    >>> [round(value, 4) for value in codec.decode(message, [2])[0].tolist()]
    [1.0, 0.334]
    """

    loses: ClassVar[bool] = False
    is_sparse: ClassVar[bool] = False

    def num_bytes(self, sizes: Sequence[int]) -> int:
        """See `Codec.num_bytes`."""
        return 2 * sum(sizes)

    def encode(self, tensors: Sequence[Tensor], message: Tensor) -> None:
        """See `Codec.encode`."""
        sizes = [tensor.numel() for tensor in tensors]
        torch._foreach_copy_(_parts(message, sizes, torch.bfloat16), list(tensors))

    def decode(self, message: Tensor, sizes: Sequence[int]) -> list[Tensor]:
        """See `Codec.decode`."""
        return [code.to(torch.float32) for code in _parts(message, sizes, torch.bfloat16)]


class Int8:
    """Encodes in 8 bits; each tensor has a scale, its largest magnitude divided by 127.

    >>> codec, message = Int8(), torch.empty(4 + 3, dtype=torch.uint8)
    >>> codec.encode([torch.tensor([1.0, -0.5, 0.001])], message)
    >>> [round(value, 3) for value in codec.decode(message, [3])[0].tolist()]
    [1.0, -0.504, 0.0]
    """

    loses: ClassVar[bool] = True
    is_sparse: ClassVar[bool] = False

    def num_bytes(self, sizes: Sequence[int]) -> int:
        """See `Codec.num_bytes`."""
        return 4 * len(sizes) + sum(sizes)

    def encode(self, tensors: Sequence[Tensor], message: Tensor) -> None:
        """See `Codec.encode`."""
        scales, codes = self._of(message, [tensor.numel() for tensor in tensors])
        largest = torch.stack(torch._foreach_norm(list(tensors), ord=float("inf")))
        torch.div(largest, _STEPS, out=scales)
        by = torch.where(scales <= 0.0, torch.ones_like(scales), scales)
        levels = torch._foreach_div(list(tensors), list(by.unbind()))
        torch._foreach_round_(levels)
        torch._foreach_copy_(codes, levels)

    def decode(self, message: Tensor, sizes: Sequence[int]) -> list[Tensor]:
        """See `Codec.decode`."""
        scales, codes = self._of(message, sizes)
        values = [code.to(torch.float32) for code in codes]
        torch._foreach_mul_(values, list(scales.unbind()))
        return values

    @staticmethod
    def _of(message: Tensor, sizes: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """A message's scales and codes."""
        start = 4 * len(sizes)
        return message[:start].view(torch.float32), _parts(message[start:], sizes, torch.int8)


def _parts(message: Tensor, sizes: Sequence[int], dtype: torch.dtype) -> list[Tensor]:
    """The codes of each tensor, one after another."""
    codes = message[: sum(sizes) * dtype.itemsize].view(dtype)
    return [codes[a:b] for a, b in pairwise(accumulate(sizes, initial=0))]
