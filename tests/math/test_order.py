"""Order statistics of columns, against torch's sorting."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from grawa.math.order import median, sorted_rows, trimmed_mean


def rows_of(workers: int, seed: int = 0) -> Tensor:
    """Few different values, so that some are equal."""
    random = torch.Generator().manual_seed(seed)
    return torch.randint(-3, 4, (workers, 60), generator=random).double() / 3


@given(st.integers(1, 70), st.integers(0, 99))
def test_columns_are_sorted(workers: int, seed: int) -> None:
    rows = rows_of(workers, seed)
    assert torch.equal(torch.stack(sorted_rows(rows)), rows.sort(dim=0).values)


def test_rows_are_left_as_they_are() -> None:
    rows = rows_of(5)
    before = rows.clone()
    sorted_rows(rows), median(rows), trimmed_mean(rows, 1)
    assert torch.equal(rows, before)


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 5, 8, 9])
def test_the_median_is_the_quantile_of_a_half(workers: int) -> None:
    rows = rows_of(workers)
    torch.testing.assert_close(median(rows), rows.quantile(0.5, dim=0), rtol=0.0, atol=1e-15)


@pytest.mark.parametrize(("workers", "trimmed"), [(3, 1), (5, 1), (6, 2), (9, 0)])
def test_a_trimmed_mean_is_the_mean_of_those_in_between(workers: int, trimmed: int) -> None:
    rows = rows_of(workers)
    between = rows.sort(dim=0).values[trimmed : workers - trimmed]
    torch.testing.assert_close(
        trimmed_mean(rows, trimmed), between.mean(dim=0), rtol=0.0, atol=1e-15
    )


@pytest.mark.parametrize(("workers", "trimmed"), [(1, 1), (2, 1), (4, 2), (5, 9)])
def test_where_nothing_would_be_left_it_is_the_median(workers: int, trimmed: int) -> None:
    rows = rows_of(workers)
    assert torch.equal(trimmed_mean(rows, trimmed), median(rows))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300])
def test_fewer_than_half_of_the_rows_can_not_move_a_median_far(bad: float) -> None:
    rows = rows_of(5)
    good = rows[[0, 2, 4]]
    rows[[1, 3]] = bad
    for found in (median(rows), trimmed_mean(rows, 2)):
        assert bool((found >= good.amin(dim=0)).all()) and bool((found <= good.amax(dim=0)).all())


def test_equal_rows_give_that_row_bit_for_bit() -> None:
    row = torch.randn(1000)
    for workers in range(1, 9):
        rows = row.expand(workers, -1)
        assert torch.equal(median(rows), row)
        assert torch.equal(trimmed_mean(rows, 1), row)
