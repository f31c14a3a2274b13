"""Parcels: pieces are cut and joined to batches, and what is written can be read back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grawa.comm.parcel import BATCH, Parcel, batches, cut, num_bytes
from grawa.comm.plan import Piece
from grawa.math.codec import Codec, Precision


def pieces_of(sizes: list[int]) -> list[Piece]:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [
        Piece(leaf=i, flat=0, start=start, offset=0, size=size)
        for i, (start, size) in enumerate(zip(starts, sizes, strict=True))
    ]


@given(st.lists(st.integers(1, 3 * BATCH), min_size=0, max_size=12))
def test_batches_hold_all_numbers_once_and_no_more_than_fit(sizes: list[int]) -> None:
    pieces = cut(pieces_of(sizes))
    joined = batches(pieces)
    assert [piece for batch in joined for piece in batch.pieces] == pieces
    assert [p.stop for p in pieces[:-1]] == [p.start for p in pieces[1:]]
    assert sum(piece.size for piece in pieces) == sum(sizes)
    whole = pieces_of(sizes)
    assert all(p.start - p.offset == whole[p.leaf].start for p in pieces)
    position = 0
    for batch in joined:
        assert batch.first == position
        assert 0 < sum(piece.size for piece in batch.pieces) <= BATCH
        position += len(batch.pieces)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("sizes", [[], [1], [3, 2], [7, 1, 1, 5]])
def test_a_parcel_says_what_was_written(precision: Precision, sizes: list[int]) -> None:
    codec = Codec(precision)
    pieces = pieces_of(sizes)
    buffer = torch.zeros(num_bytes(codec, pieces), dtype=torch.uint8)
    assert len(buffer) % 4 == 0
    assert len(buffer) <= sum(sizes) * codec.dtype.itemsize + 4 * len(sizes) + 3
    parcel = Parcel(codec, pieces, buffer)
    values = [torch.linspace(-1.0, 0.7, size) for size in sizes]
    for i, value in enumerate(values):
        parcel.write(i, [value.clone()])
    found = Parcel(codec, pieces, buffer.clone()).read(0, len(sizes))
    for value, read in zip(values, found, strict=True):
        torch.testing.assert_close(read, value, rtol=0.0, atol=0.005)
