"""Rows have equal digests if they are equal bit for bit, and only then."""

import pytest
import torch
from torch import Tensor

from grawa.math.digest import digests

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def _differ(parts: list[Tensor]) -> bool:
    first, second = digests(parts).tolist()
    return bool(first != second)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_single_bit_or_another_order_makes_a_difference(dtype: torch.dtype) -> None:
    row = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert not _differ([torch.stack([row, row])])
    nearly = row.clone()
    nearly[2, 3] = torch.nextafter(row[2, 3], torch.tensor(torch.inf, dtype=dtype))
    assert _differ([torch.stack([row, nearly])])
    assert _differ([torch.stack([row, row.flip(0)])])
    assert _differ([torch.stack([row, nearly]), torch.stack([nearly, row])])  # across tensors


def test_large_empty_and_scalar_rows_and_any_strides() -> None:
    large = torch.zeros(2, 2**20 + 3)
    assert not _differ([large, torch.zeros(2, 0), torch.zeros(2)])
    large[1, -1] = 1.0
    assert _differ([large])
    images = torch.randn(2, 3, 4, 5)
    strided = images.contiguous(memory_format=torch.channels_last)
    assert digests([images]).equal(digests([strided]))
