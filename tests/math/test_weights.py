"""Weights from scores: the paper's formula, its limits, and the guard's floor."""

import math
from collections.abc import Callable
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from grawa.math.weights import (
    floor_at_median,
    inverse_loss,
    inverse_norm,
    one_hot_smallest,
    uniform,
)


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1)


def all_of(rows: Tensor) -> Tensor:
    return torch.ones(len(rows), dtype=torch.bool)


norms = arrays(
    "float64",
    st.tuples(st.integers(1, 6), st.integers(1, 4)),
    elements=st.one_of(st.just(0.0), st.floats(1e-300, 1e300)),
).map(torch.from_numpy)
powers = st.floats(0.0, 3.0)


@pytest.mark.parametrize(
    ("power", "expected"),
    [(0.0, (1 / 3, 1 / 3, 1 / 3)), (1.0, (4 / 7, 2 / 7, 1 / 7)), (2.0, (16 / 21, 4 / 21, 1 / 21))],
)
def test_weights_are_proportional_to_the_inverse_norm_to_the_power(
    power: float, expected: tuple[float, ...]
) -> None:
    weights = inverse_norm(column(1.0, 2.0, 4.0), power)
    torch.testing.assert_close(weights, column(*expected), rtol=1e-15, atol=0.0)


def test_each_group_has_weights_of_its_own() -> None:
    weights = inverse_norm(torch.tensor([[1.0, 3.0], [3.0, 1.0]]))
    assert weights.tolist() == [[0.75, 0.25], [0.25, 0.75]]


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_a_norm_of_zero_beside_others_has_no_weight(power: float) -> None:
    weights = inverse_norm(column(0.0, 5.0, 0.0, 5.0), power)
    assert weights.flatten().tolist() == [0.0, 0.5, 0.0, 0.5]


def test_each_tensor_is_weighted_among_those_that_trained_it() -> None:
    weights = inverse_norm(torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0]]))
    assert weights.tolist() == [[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]]


def test_with_power_zero_norms_of_zero_count_too() -> None:
    assert inverse_norm(column(0.0, 5.0), 0.0).flatten().tolist() == [0.5, 0.5]


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_losses_of_zero_share_all_the_weight(power: float) -> None:
    assert inverse_loss(column(0.0, 5.0, -3.0), power).flatten().tolist() == [0.5, 0.0, 0.5]


@pytest.mark.parametrize("own", [1e-9, 0.0, math.nan, math.inf])
@pytest.mark.parametrize("function", [inverse_norm, inverse_loss])
def test_a_worker_that_is_left_out_has_no_weight_whatever_its_score(
    function: Callable[..., Tensor], own: float
) -> None:
    active = torch.tensor([True, False, True])
    assert function(column(1.0, own, 3.0), 1.0, active).flatten().tolist() == [0.75, 0.0, 0.25]
    assert function(column(0.0, own, 0.0), 1.0, active).flatten().tolist() == [0.5, 0.0, 0.5]
    assert function(column(1.0, own, 3.0), 0.0, active).flatten().tolist() == [0.5, 0.0, 0.5]


def test_where_only_those_left_out_have_a_norm_the_others_count_equally() -> None:
    weights = inverse_norm(column(0.0, 5.0, 0.0), 1.0, torch.tensor([True, False, True]))
    assert weights.flatten().tolist() == [0.5, 0.0, 0.5]


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_a_column_without_gradient_gives_equal_weights(power: float) -> None:
    assert inverse_norm(column(0.0, 0.0, 0.0, 0.0), power).flatten().tolist() == [0.25] * 4


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_an_infinite_norm_has_no_weight(power: float) -> None:
    assert inverse_norm(column(3.0, math.inf, 3.0), power).flatten().tolist() == [0.5, 0.0, 0.5]


@pytest.mark.parametrize("scale", [1e-300, 1e-12, 1e12, 1e300])
def test_huge_and_tiny_norms_neither_overflow_nor_vanish(scale: float) -> None:
    weights = inverse_norm(column(1.0, 3.0) * scale)
    torch.testing.assert_close(weights, column(0.75, 0.25), rtol=1e-14, atol=0.0)


def test_the_widest_span_of_norms_gives_finite_weights() -> None:
    assert inverse_norm(column(1e-300, 1e300), 2.0).flatten().tolist() == [1.0, 0.0]


@given(norms, powers)
def test_columns_are_convex_combinations(rows: Tensor, power: float) -> None:
    weights = inverse_norm(rows, power)
    assert bool((weights >= 0).all())
    torch.testing.assert_close(
        weights.sum(dim=0), torch.ones(rows.shape[1], dtype=torch.float64), rtol=1e-14, atol=0.0
    )


@given(norms, powers, st.randoms(use_true_random=False))
def test_relabelling_the_workers_relabels_the_weights(
    rows: Tensor, power: float, random: Random
) -> None:
    order = list(range(len(rows)))
    random.shuffle(order)
    torch.testing.assert_close(
        inverse_norm(rows[order], power), inverse_norm(rows, power)[order], rtol=1e-14, atol=0.0
    )


@given(norms)
def test_a_smaller_norm_never_has_less_weight_unless_it_is_zero(rows: Tensor) -> None:
    weights = inverse_norm(rows)
    positive = rows.unsqueeze(0) > 0.0
    smaller = (rows.unsqueeze(0) < rows.unsqueeze(1)) & positive  # (N, N, G): j's is below i's
    assert bool((weights.unsqueeze(0) >= weights.unsqueeze(1))[smaller].all())


def test_the_leader_has_the_smallest_score() -> None:
    leaders = one_hot_smallest(torch.tensor([[0.7, 0.1], [0.2, 0.3], [0.9, 0.2]]))
    assert leaders.tolist() == [[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]


def test_of_equal_scores_the_first_leads() -> None:
    assert one_hot_smallest(column(0.3, 0.2, 0.2)).flatten().tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("own", [0.1, math.nan, -math.inf])
def test_a_worker_that_is_left_out_does_not_lead(own: float) -> None:
    weights = one_hot_smallest(column(own, 2.0), torch.tensor([False, True]))
    assert weights.flatten().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("num_workers", [1, 3, 7])
def test_uniform_weights_are_one_in_n(num_workers: int) -> None:
    weights = uniform(num_workers)
    assert weights.shape == (num_workers, 1)
    assert weights.flatten().tolist() == [1 / num_workers] * num_workers


def test_no_norm_lies_below_the_fraction_of_the_median() -> None:
    # The median of an even number is the mean of the two in the middle: 3.
    rows = column(0.1, 2.0, 4.0, 9.0)
    assert floor_at_median(rows, 0.5, all_of(rows)).flatten().tolist() == [1.5, 2, 4, 9]


def test_those_who_are_left_out_do_not_count_in_the_median() -> None:
    active = torch.tensor([False, True, True, True])
    floored = floor_at_median(column(99.0, 0.1, 2.0, 4.0), 0.5, active)
    assert floored.flatten().tolist() == [99.0, 1.0, 2.0, 4.0]


def test_each_column_has_a_floor_of_its_own() -> None:
    rows = torch.tensor([[0.1, 100.0], [2.0, 0.5], [4.0, 200.0]])
    floored = floor_at_median(rows, 0.5, all_of(rows))
    assert floored.tolist() == [[1.0, 100.0], [2.0, 50.0], [4.0, 200.0]]


def test_a_norm_of_zero_is_not_lifted_and_does_not_count_in_the_median() -> None:
    rows = column(0.0, 0.0, 0.0, 0.1, 2.0, 4.0)
    assert floor_at_median(rows, 0.5, all_of(rows)).flatten().tolist() == [0, 0, 0, 1.0, 2.0, 4.0]
    assert floor_at_median(column(0.0, 0.0), 0.5, all_of(column(0.0, 0.0))).tolist() == [[0], [0]]


def test_a_floor_of_zero_changes_nothing() -> None:
    rows = column(0.0, 1e-9, 5.0)
    assert torch.equal(floor_at_median(rows, 0.0, all_of(rows)), rows)
