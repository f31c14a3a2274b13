"""The running weighted mean behind every average of parameters."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from grawa.math.mean import weighted_mean_


def mean_of(rows: list[Tensor], weights: list[float]) -> Tensor:
    mean = torch.full_like(rows[0], math.nan)
    weighted_mean_([mean], [[row] for row in rows], [[weight] for weight in weights])
    return mean


def test_a_weighted_mean_by_hand() -> None:
    rows = [torch.tensor([v, -v], dtype=torch.float64) for v in (1.0, 5.0, 9.0)]
    # (1 * 1 + 3 * 5 + 4 * 9) / 8
    assert mean_of(rows, [1.0, 3.0, 4.0]).tolist() == [6.5, -6.5]


def test_weights_need_not_sum_to_one_and_leaves_may_differ_in_weight() -> None:
    mean = [torch.empty(1), torch.empty(2)]
    rows = [
        [torch.tensor([1.0]), torch.tensor([1.0, 2.0])],
        [torch.tensor([4.0]), torch.tensor([5.0, 6.0])],
    ]
    weighted_mean_(mean, rows, [[2.0, 30.0], [4.0, 10.0]])
    assert [leaf.tolist() for leaf in mean] == [[3.0], [2.0, 3.0]]


def test_nan_and_infinity_in_a_row_of_weight_zero_contribute_nothing() -> None:
    bad = [torch.tensor([math.nan, math.inf]), torch.tensor([-math.inf, math.nan])]
    good = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])]
    weights = [0.0, 0.5, 0.0, 0.5]
    assert mean_of([bad[0], good[0], bad[1], good[1]], weights).tolist() == [2.0, 3.0]


def test_a_leaf_that_has_no_weight_at_all_is_left_as_it_was() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        mean = [torch.tensor([7.0], dtype=dtype), torch.tensor([7.0], dtype=dtype)]
        row = [torch.tensor([1.0], dtype=dtype), torch.tensor([1.0], dtype=dtype)]
        weighted_mean_(mean, [row], [[0.0, 1.0]])
        assert [leaf.item() for leaf in mean] == [7.0, 1.0]


def test_31_against_one_in_bfloat16_is_not_the_one() -> None:
    rows = [torch.tensor([value], dtype=torch.bfloat16) for value in [1.0] + [1.0078125] * 31]
    # The mean is 1.00757, a hair from 31 of 32; in bfloat16 the next number below is 1.0.
    assert mean_of(rows, [1 / 32] * 32).tolist() == [1.0078125]


@given(st.integers(0, 99), st.sampled_from([torch.bfloat16, torch.float16]))
def test_16_bit_rows_give_the_exact_mean_rounded_once(seed: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randn(200, generator=generator).to(dtype) for _ in range(7)]
    weights = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    exact = sum(w * r.double() for w, r in zip(weights, rows, strict=True)) / sum(weights)
    assert isinstance(exact, Tensor)
    half_an_ulp = exact.abs() * torch.finfo(dtype).eps / 2
    assert bool(((mean_of(rows, weights).double() - exact).abs() <= half_an_ulp + 1e-6).all())


@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=5),
    st.lists(st.floats(0.001, 1000.0), min_size=1, max_size=8),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_equal_rows_give_that_row_bit_for_bit(
    values: list[float], weights: list[float], dtype: torch.dtype
) -> None:
    row = torch.tensor(values).to(dtype)
    assert torch.equal(mean_of([row] * len(weights), weights), row)


@given(
    st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(0.0, 10.0)), min_size=1, max_size=8).filter(
        lambda pairs: any(weight > 1e-3 for _, weight in pairs)
    )
)
def test_it_is_the_sum_of_weight_times_row_over_the_sum_of_weights(
    pairs: list[tuple[float, float]],
) -> None:
    rows = [torch.tensor([value], dtype=torch.float64) for value, _ in pairs]
    weights = [weight for _, weight in pairs]
    expected = math.fsum(v * w for v, w in pairs) / math.fsum(weights)
    assert math.isclose(mean_of(rows, weights).item(), expected, rel_tol=1e-12, abs_tol=1e-9)
