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
    """How numbers are cut into chunks, and how the places of those that are sent are written."""

    chunks: int
    """How many, C."""
    length: int
    """Of each, with the zeros that fill the last one; at most 4,096."""
    k: int
    """Numbers of each that are sent."""

    @property
    def index_bits(self) -> int:
        """Of a place in a chunk, if places are written one by one."""
        return 0 if self.has_mask else (self.length - 1).bit_length()

    @property
    def has_mask(self) -> bool:
        """Whether a bit for each number takes less, which says whether it is sent."""
        return self.k * (self.length - 1).bit_length() >= self.length

    @property
    def mask_bytes(self) -> int:
        """Of these bits; none if every number is sent."""
        sparse = self.has_mask and self.k < self.length
        return packed_bytes(self.chunks * self.length, 1) if sparse else 0


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

    fraction: float = 1 / 4
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
        return sum(self._parts(self._form(sum(sizes))))

    def encode(self, tensors: Sequence[Tensor], message: Tensor) -> None:
        """See `grawa.math.codec.Codec`."""
        numbers = torch.cat([tensor.reshape(-1) for tensor in tensors])
        form = self._form(numbers.numel())
        filled = torch.nn.functional.pad(numbers, (0, form.chunks * form.length - len(numbers)))
        chunks = filled.view(form.chunks, form.length)
        sent, where = _chosen(chunks, form)
        groups, levels = _grouped(sent.abs(), self.bits - 1)
        words = (groups << 1) | (sent < 0.0)
        if form.index_bits:
            words |= where << self.bits
        of_levels, of_mask, of_words = message[: self.num_bytes([len(numbers)])].split(
            self._parts(form)
        )
        of_levels.view(torch.float32).copy_(levels.view(-1))
        if form.mask_bytes:
            of_mask.copy_(pack(where.view(-1), 1))
        of_words.copy_(pack(words.view(-1), form.index_bits + self.bits))

    def decode(self, message: Tensor, sizes: Sequence[int]) -> list[Tensor]:
        """See `grawa.math.codec.Codec`."""
        form = self._form(sum(sizes))
        of_levels, of_mask, of_words = message[: self.num_bytes(sizes)].split(self._parts(form))
        words = unpack(of_words, form.chunks * form.k, form.index_bits + self.bits)
        words = words.view(form.chunks, form.k)
        levels = of_levels.view(torch.float32).view(form.chunks, self._levels)
        values = levels.gather(1, (words >> 1) & (self._levels - 1))
        values = torch.where((words & 1).bool(), -values, values)
        if form.mask_bytes:
            mask = unpack(of_mask, form.chunks * form.length, 1).bool()
            values = values.new_zeros(len(mask)).masked_scatter_(mask, values)
        elif form.index_bits:
            zeros = values.new_zeros(form.chunks, form.length)
            values = zeros.scatter_(1, words >> self.bits, values)
        return list(values.view(-1)[: sum(sizes)].split(list(sizes)))

    def _parts(self, form: _Form) -> list[int]:
        """The bytes of a message's levels, its mask and its words."""
        words = packed_bytes(form.chunks * form.k, form.index_bits + self.bits)
        return [4 * form.chunks * self._levels, form.mask_bytes, words]

    @property
    def _levels(self) -> int:
        """Of the magnitudes."""
        return 1 << (self.bits - 1)

    def _form(self, count: int) -> _Form:
        chunks = -(-count // _CHUNK)
        length = -(-count // chunks)
        return _Form(chunks, length, min(length, math.ceil(self.fraction * length)))


def _chosen(chunks: Tensor, form: _Form) -> tuple[Tensor, Tensor]:
    """Each chunk's largest numbers, in order if their places are not written one by one.

    Args:
        chunks: (C, length).
        form: of the chunks.

    Returns:
        The numbers, (C, k), and where they are: their places, (C, k), or a mask, (C, length).
    """
    if form.k == form.length:
        return chunks, torch.ones_like(chunks, dtype=torch.bool)
    places = chunks.abs().topk(form.k, sorted=False).indices
    if form.index_bits:
        return chunks.gather(1, places), places
    mask = torch.zeros_like(chunks, dtype=torch.bool).scatter_(1, places, True)
    return chunks.masked_select(mask).view(form.chunks, form.k), mask


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
