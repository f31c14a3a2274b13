"""Parcels: pieces are cut and joined to batches, and what is written can be read back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grawa.comm.parcel import BATCH, Parcel, batches, cut, num_bytes
from grawa.comm.plan import Piece
from grawa.math.codec import Precision, codec_of
from grawa.math.top_k import TopK


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
    assert [piece for batch in joined for piece in batch] == pieces
    assert [p.stop for p in pieces[:-1]] == [p.start for p in pieces[1:]]
    assert sum(piece.size for piece in pieces) == sum(sizes)
    whole = pieces_of(sizes)
    assert all(p.start - p.offset == whole[p.leaf].start for p in pieces)
    assert all(0 < sum(piece.size for piece in batch) <= BATCH for batch in joined)


@pytest.mark.parametrize("precision", ["bf16", "int8", TopK(fraction=1.0, bits=8)], ids=str)
@pytest.mark.parametrize("sizes", [[], [1], [3, 2], [7, 1, 1, 5]])
@pytest.mark.parametrize("each", [1, 2])
def test_a_parcel_says_what_was_written(precision: Precision, sizes: list[int], each: int) -> None:
    codec, pieces = codec_of(precision), pieces_of(sizes)
    batched = [[], *(pieces[i : i + each] for i in range(0, len(pieces), each))]
    buffer = torch.zeros(num_bytes(codec, batched), dtype=torch.uint8)
    least = sum(codec.num_bytes([p.size for p in own]) for own in batched if own)
    assert least <= len(buffer) <= least + 3 * len(batched)
    parcel = Parcel(codec, batched, buffer)
    values = [torch.linspace(-1.0, 0.7, size) for size in sizes]
    for batch, own in enumerate(batched):
        parcel.write(batch, [values[piece.leaf].clone() for piece in own])
    found = Parcel(codec, batched, buffer.clone())
    read = [value for batch in range(len(batched)) for value in found.read(batch)]
    for value, said in zip(values, read, strict=True):
        torch.testing.assert_close(said, value, rtol=0.0, atol=0.005)
