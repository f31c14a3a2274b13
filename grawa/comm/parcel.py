"""What travels of a section in fewer bits: the scales of its pieces, then their codes."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from grawa.comm.plan import Piece
from grawa.math import leaves
from grawa.math.codec import Codec

BATCH = 2**16
"""Numbers that are coded at a time, so that what comes in between stays in the cache."""

_WORD = 4  # bytes; parcels start and end at whole ones


class Batch(NamedTuple):
    """Some of a section's pieces, which are coded together."""

    pieces: Sequence[Piece]
    first: int
    """Which piece of the section the first one is."""


def cut(pieces: Sequence[Piece]) -> list[Piece]:
    """Pieces of at most `BATCH` numbers, which have a scale each."""
    return [
        piece._replace(
            start=piece.start + skip, offset=piece.offset + skip, size=min(BATCH, piece.size - skip)
        )
        for piece in pieces
        for skip in range(0, piece.size, BATCH)
    ]


def batches(pieces: Sequence[Piece]) -> list[Batch]:
    """Neighbouring pieces, as many as a batch holds."""
    found = leaves.batches([piece.size for piece in pieces], BATCH)
    return [Batch(pieces[some], some.start) for some in found]


class Parcel:
    """A buffer, and the places of scales and codes in it.

    Args:
        codec: writes and reads it.
        pieces: what is in it.
        buffer: uint8, of `num_bytes(codec, pieces)`, where whole words start.
    """

    def __init__(self, codec: Codec, pieces: Sequence[Piece], buffer: Tensor) -> None:
        self._codec = codec
        scales = len(pieces) if codec.has_scales else 0
        self._scales = buffer[: 4 * scales].view(torch.float32)
        codes = buffer[4 * scales :].view(codec.dtype)
        sizes = [piece.size for piece in pieces]
        self._codes = codes[: sum(sizes)].split(sizes) if sizes else ()

    def write(self, first: int, values: Sequence[Tensor]) -> None:
        """Writes some pieces, from the `first` on."""
        self._codec.encode(values, *self._part(first, len(values)))

    def read(self, first: int, count: int) -> list[Tensor]:
        """What it says of some pieces, float32."""
        return self._codec.decode(*self._part(first, count))

    def _part(self, first: int, count: int) -> tuple[Sequence[Tensor], Tensor]:
        scales = self._scales[first : first + count]  # none where there are none
        return self._codes[first : first + count], scales


def num_bytes(codec: Codec, pieces: Sequence[Piece]) -> int:
    """Of a parcel of these pieces."""
    scales = 4 * len(pieces) if codec.has_scales else 0
    used = scales + sum(piece.size for piece in pieces) * codec.dtype.itemsize
    return -(-used // _WORD) * _WORD
