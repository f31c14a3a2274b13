"""Top-k: the largest numbers of each chunk are sent, in a few bits, and the others later."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from grawa.errors import UserError
from grawa.math.bits import pack, packed_bytes, unpack

_CHUNK = 4096
_MOST_BITS = 8


class _Form(NamedTuple):
    """How numbers are cut into chunks.

    Attributes:
        chunks: how many, C; as long as each other, and at most 4,096 numbers.
        length: of each, with the zeros that fill the last one.
        k: numbers of each that are sent.
    """

    chunks: int
    length: int
    k: int

    @property
    def index_bits(self) -> int:
        """Of a number's place in its chunk; none if all are sent, in order."""
        return 0 if self.k == self.length else (self.length - 1).bit_length()


@dataclass(frozen=True, kw_only=True)
class TopK:
    """Sends the largest differences of each chunk of 4,096 numbers, in a few bits.

    What is not sent, and what the few bits lose, is kept and added to the next round's differences.
    A chunk's message is the places of its largest numbers, their signs, and in which of
    2^(bits - 1) groups of magnitudes each is; a group is sent as its mean. Magnitudes are divided
    into groups at their mean, and each group again at its own.

    Args:
        fraction: of each chunk's numbers, in (0, 1]; at least one is sent. With 1 all are.
        bits: of a number that is sent, with its sign, from 1 to 8.

    >>> codec, numbers = TopK(fraction=0.5, bits=2), torch.tensor([3.0, 0.1, -1.0, 0.0])
    >>> message = torch.empty(codec.num_bytes([4]), dtype=torch.uint8)
    >>> codec.encode([numbers], message)
    >>> codec.decode(message, [4])
    [tensor([ 3.,  0., -1.,  0.])]

    Source: Sarfi et al. (2025), "Communication Efficient LLM Pre-training with SparseLoCo" (arXiv
    2508.15706), for top-k of chunks, 2 bits and error feedback on what workers have moved.
    Deviation: the groups of magnitudes are ours; the error feedback does not decay (theirs by 0.95
    a round); the mean is sent back in the same way, with an error feedback of its own, where theirs
    brings every worker's message to all others.
    """

    loses: ClassVar[bool] = True
    is_sparse: ClassVar[bool] = True

    fraction: float = 1 / 32
    bits: int = 2

    def __post_init__(self) -> None:
        if not 0.0 < self.fraction <= 1.0:
            raise UserError(f"fraction must lie in (0, 1], got {self.fraction}")
        if not isinstance(self.bits, int) or not 1 <= self.bits <= _MOST_BITS:
            raise UserError(
                f"bits must be a whole number from 1 to {_MOST_BITS}, got {self.bits!r}"
            )

    def __str__(self) -> str:
        return f"topk:fraction={self.fraction}:bits={self.bits}"

    def num_bytes(self, sizes: Sequence[int]) -> int:
        """See `grawa.math.codec.Codec`."""
        form = self._form(sum(sizes))
        width = form.index_bits + self.bits
        return 4 * form.chunks * self._levels + packed_bytes(form.chunks * form.k, width)

    def encode(self, tensors: Sequence[Tensor], message: Tensor) -> None:
        """See `grawa.math.codec.Codec`."""
        numbers = torch.cat([tensor.reshape(-1) for tensor in tensors])
        form = self._form(numbers.numel())
        filled = torch.nn.functional.pad(numbers, (0, form.chunks * form.length - len(numbers)))
        chunks = filled.view(form.chunks, form.length)
        if form.index_bits:
            places = chunks.abs().topk(form.k, sorted=False).indices
        else:
            places = torch.arange(form.k, device=chunks.device).expand_as(chunks)
        sent = chunks.gather(1, places)
        groups, levels = _grouped(sent.abs(), self.bits - 1)
        words = (places << self.bits) | (groups << 1) | (sent < 0.0)
        start = 4 * levels.numel()
        packed = pack(words.view(-1), form.index_bits + self.bits)
        message[:start].view(torch.float32).copy_(levels.view(-1))
        message[start : start + len(packed)] = packed

    def decode(self, message: Tensor, sizes: Sequence[int]) -> list[Tensor]:
        """See `grawa.math.codec.Codec`."""
        form = self._form(sum(sizes))
        width, count = form.index_bits + self.bits, form.chunks * form.k
        start = 4 * form.chunks * self._levels
        levels = message[:start].view(torch.float32).view(form.chunks, self._levels)
        packed = message[start : start + packed_bytes(count, width)]
        words = unpack(packed, count, width).view(form.chunks, form.k)
        values = levels.gather(1, (words >> 1) & (self._levels - 1))
        values = torch.where((words & 1).bool(), -values, values)
        if form.index_bits:
            zeros = values.new_zeros(form.chunks, form.length)
            values = zeros.scatter_(1, words >> self.bits, values)
        return list(values.view(-1)[: sum(sizes)].split(list(sizes)))

    @property
    def _levels(self) -> int:
        """Of the magnitudes."""
        return 1 << (self.bits - 1)

    def _form(self, count: int) -> _Form:
        chunks = -(-count // _CHUNK)
        length = -(-count // chunks)
        return _Form(chunks, length, min(length, math.ceil(self.fraction * length)))


def _grouped(magnitudes: Tensor, times: int) -> tuple[Tensor, Tensor]:
    """Divides each row's numbers at their mean, each part at its own mean, and so on.

    Args:
        magnitudes: (C, k).
        times: how often.

    Returns:
        The group of each number, (C, k), int64, and the groups' means, (C, 2^times).
    """
    groups = torch.zeros_like(magnitudes, dtype=torch.int64)
    means = magnitudes.mean(dim=1, keepdim=True)
    for done in range(1, times + 1):
        groups = 2 * groups + (magnitudes >= means.gather(1, groups))
        sums = magnitudes.new_zeros(len(magnitudes), 1 << done)
        counts = torch.zeros_like(sums).scatter_add_(1, groups, torch.ones_like(magnitudes))
        means = sums.scatter_add_(1, groups, magnitudes) / counts.clamp_min_(1.0)
    return groups, means
