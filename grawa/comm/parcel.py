"""What travels of a section in fewer bits: a message for each batch of its pieces."""

from collections.abc import Sequence

from torch import Tensor

from grawa.comm.plan import Piece
from grawa.math import leaves
from grawa.math.codec import Codec

BATCH = 2**16
"""Numbers that are coded at a time, so that what comes in between stays in the cache."""

_WORD = 4  # bytes; messages start and end at whole ones


Batches = Sequence[Sequence[Piece]]
"""Pieces that are coded together."""


def cut(pieces: Sequence[Piece]) -> list[Piece]:
    """Pieces of at most `BATCH` numbers, which have a scale each."""
    return [
        piece._replace(
            start=piece.start + skip, offset=piece.offset + skip, size=min(BATCH, piece.size - skip)
        )
        for piece in pieces
        for skip in range(0, piece.size, BATCH)
    ]


def batches(pieces: Sequence[Piece]) -> list[Sequence[Piece]]:
    """Neighbouring pieces, as many together as a batch holds."""
    return [pieces[some] for some in leaves.batches(_sizes(pieces), BATCH)]


class Parcel:
    """A buffer, and the messages in it, one for each batch.

    Args:
        codec: writes and reads it.
        batches: the pieces in each message.
        buffer: uint8, of `num_bytes(codec, batches)`, where whole words start.
    """

    def __init__(self, codec: Codec, batches: Batches, buffer: Tensor) -> None:
        self._codec = codec
        self._sizes = [_sizes(pieces) for pieces in batches]
        self._messages = buffer.split([_whole_words(codec, sizes) for sizes in self._sizes])

    def write(self, batch: int, values: Sequence[Tensor]) -> None:
        """Writes the pieces of a batch."""
        if values:
            self._codec.encode(values, self._messages[batch])

    def read(self, batch: int) -> list[Tensor]:
        """What it says of the pieces of a batch, float32."""
        sizes = self._sizes[batch]
        return self._codec.decode(self._messages[batch], sizes) if sizes else []


def num_bytes(codec: Codec, batches: Batches) -> int:
    """Of a parcel of these batches."""
    return sum(_whole_words(codec, _sizes(pieces)) for pieces in batches)


def _sizes(pieces: Sequence[Piece]) -> list[int]:
    return [piece.size for piece in pieces]


def _whole_words(codec: Codec, sizes: Sequence[int]) -> int:
    return -(-codec.num_bytes(sizes) // _WORD) * _WORD if sizes else 0
