"""Top-k: the largest numbers of each chunk, in a few bits and no more bytes than are said."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from grawa.errors import UserError
from grawa.math.bits import pack, packed_bytes, unpack
from grawa.math.codec import Int8
from grawa.math.top_k import TopK


def sent(codec: TopK, *tensors: Tensor) -> list[Tensor]:
    """What is decoded of tensors that were encoded together, in no more than the bytes of it."""
    sizes = [tensor.numel() for tensor in tensors]
    message = torch.full((codec.num_bytes(sizes),), 255, dtype=torch.uint8)
    codec.encode(tensors, message)
    return codec.decode(message, sizes)


def normal(size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(size))


@given(st.integers(1, 20), st.lists(st.integers(0, 2**20 - 1), max_size=30))
def test_bits_are_packed_without_gaps(width: int, numbers: list[int]) -> None:
    kept = torch.tensor([number % 2**width for number in numbers], dtype=torch.int64)
    with torch.autocast("cpu", torch.bfloat16):
        packed = pack(torch.tensor(numbers, dtype=torch.int64), width)
        found = unpack(packed, len(numbers), width)
    assert len(packed) == packed_bytes(len(numbers), width) == math.ceil(len(numbers) * width / 8)
    assert torch.equal(found, kept)


@pytest.mark.parametrize("fraction", [1e-6, 1 / 32, 0.125, 0.7, 1.0])
@pytest.mark.parametrize("size", [1, 2, 5, 4096, 4097, 9001])
def test_the_largest_numbers_of_each_chunk_are_sent_with_their_signs(
    fraction: float, size: int
) -> None:
    numbers = normal(size)
    (found,) = sent(TopK(fraction=fraction, bits=3), numbers)
    length = math.ceil(size / math.ceil(size / 4096))
    for own, said in zip(numbers.split(length), found.split(length), strict=True):
        there = said.abs() > 0.0
        assert int(there.sum()) == min(len(own), math.ceil(fraction * length))
        assert torch.equal(said[there].sign(), own[there].sign())
        if not there.all():
            assert own[there].abs().min() >= own[~there].abs().max()
        assert (own - said).norm() <= own.norm()


def test_groups_of_magnitudes_by_hand() -> None:
    # Their mean is 2.5, so that 1 and 2 are one group, 3 and -4 the other; 1 bit knows one group.
    numbers = torch.tensor([1.0, 2.0, 3.0, -4.0])
    assert sent(TopK(fraction=1.0, bits=1), numbers)[0].tolist() == [2.5, 2.5, 2.5, -2.5]
    assert sent(TopK(fraction=1.0, bits=2), numbers)[0].tolist() == [1.5, 1.5, 3.5, -3.5]
    assert sent(TopK(fraction=1.0, bits=3), numbers)[0].tolist() == [1.0, 2.0, 3.0, -4.0]
    assert sent(TopK(fraction=0.5, bits=2), numbers)[0].tolist() == [0.0, 0.0, 3.0, -4.0]


def test_zeros_stay_zeros_and_tensors_are_told_apart() -> None:
    numbers = torch.zeros(4096)
    numbers[77] = -3.0
    found = sent(TopK(), torch.zeros(3), numbers, torch.tensor([5.0]))
    assert [len(own) for own in found] == [3, 4096, 1]
    assert torch.equal(torch.cat(found), torch.cat([torch.zeros(3), numbers, torch.tensor([5.0])]))


@pytest.mark.parametrize("bits", range(1, 8))
def test_a_bit_more_brings_it_nearer(bits: int) -> None:
    numbers = normal(4096)
    few, more = (sent(TopK(fraction=1.0, bits=b), numbers)[0] for b in (bits, bits + 1))
    assert (numbers - more).norm() < 0.75 * (numbers - few).norm()


def test_all_numbers_in_8_bits_are_nearer_than_int8() -> None:
    numbers, codec = normal(4096), Int8()
    message = torch.empty(codec.num_bytes([4096]), dtype=torch.uint8)
    codec.encode([numbers], message)
    (plain,) = codec.decode(message, [4096])
    (found,) = sent(TopK(fraction=1.0, bits=8), numbers)
    assert (numbers - found).norm() < 1.5 * (numbers - plain).norm()


def test_the_bytes_of_a_chunk() -> None:
    # 128 places of 12 bits and 2 bits each, and two levels; with a quarter, a bit for each number.
    assert TopK(fraction=1 / 32).num_bytes([4096]) == 128 * 14 // 8 + 8
    assert TopK(fraction=1 / 4).num_bytes([4096]) == 4096 // 8 + 1024 * 2 // 8 + 8
    assert TopK(fraction=1.0, bits=4).num_bytes([4096]) == 4096 // 2 + 32
    assert TopK(fraction=1 / 32).num_bytes([4000, 96]) == 128 * 14 // 8 + 8


@pytest.mark.parametrize("fraction", [1 / 32, 0.25, 1.0])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_arrives_as_such(fraction: float, value: float) -> None:
    numbers = normal(5000)
    numbers[7] = value
    assert not bool(sent(TopK(fraction=fraction, bits=3), numbers)[0].isfinite().all())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fraction": 0.0}, r"fraction must lie in \(0, 1\], got 0.0"),
        ({"fraction": 1.5}, "fraction must lie in"),
        ({"fraction": math.nan}, "fraction must lie in"),
        ({"bits": 0}, "bits must be a whole number from 1 to 8, got 0"),
        ({"bits": 2.0}, "bits must be a whole number"),
    ],
    ids=str,
)
def test_what_is_out_of_range_is_refused(options: dict[str, float], said: str) -> None:
    with pytest.raises(UserError, match=said):
        TopK(**options)  # type: ignore[arg-type]
