"""Pulls and blends, in place."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from grawa.math.leaves import Leaves
from grawa.math.motion import blend_, pull_, pull_and_push_, put_


def stack(*rows: tuple[float, float]) -> dict[str, Tensor]:
    table = torch.tensor(rows, dtype=torch.float64)
    return {"a": table[:, :1].clone(), "b": table[:, 1:].clone()}


def leaves(a: float, b: float) -> Leaves:
    return Leaves.copy_of(stack((a, b)))


def test_a_push_has_its_length_over_all_leaves_and_leaves_the_target_alone() -> None:
    params = stack((3.0, 4.0), (0.0, 0.0), (0.0, -10.0))
    pull_and_push_(params, leaves(0.0, 0.0), 0.5, 5.0)
    assert params["a"].flatten().tolist() == [1.5 + 3.0, 0.0, 0.0]
    assert params["b"].flatten().tolist() == [2.0 + 4.0, 0.0, -5.0 - 5.0]


def test_a_row_that_is_not_a_number_is_pushed_alone() -> None:
    params = stack((math.nan, 4.0), (3.0, 4.0))
    pull_and_push_(params, leaves(0.0, 0.0), 0.0, 5.0)
    assert (params["a"][1].item(), params["b"][1].item()) == (6.0, 8.0)


def test_a_pull_goes_its_share_of_the_way_for_every_row_and_leaf() -> None:
    params = stack((0.0, 8.0), (4.0, -8.0))
    pull_(params, leaves(8.0, 0.0), 0.25)
    assert params["a"].flatten().tolist() == [2.0, 5.0]
    assert params["b"].flatten().tolist() == [6.0, -6.0]


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.floats(0.0, 1.0))
def test_a_pull_is_the_convex_combination(value: float, goal: float, strength: float) -> None:
    params = stack((value, goal))
    pull_(params, leaves(goal, value), strength)
    expected = (1 - strength) * value + strength * goal
    assert math.isclose(params["a"].item(), expected, rel_tol=1e-12, abs_tol=1e-12)


@pytest.mark.parametrize("strength", [0.01, 0.5, 0.9, 0.99, 0.9999])
def test_only_a_pull_of_one_goes_all_the_way(strength: float) -> None:
    params = stack((0.0, 1.0))
    pull_(params, leaves(1.0, 0.0), strength)
    assert params["a"].item() == pytest.approx(strength, rel=1e-14)
    assert params["b"].item() == pytest.approx(1 - strength, rel=1e-10)


def test_a_pull_of_zero_leaves_the_rows_alone_even_if_the_target_is_nan() -> None:
    params = stack((0.1, 0.2))
    pull_(params, leaves(torch.nan, torch.nan), 0.0)
    assert params["a"].tolist() == [[0.1]]


def test_a_pull_of_one_puts_the_rows_on_the_target_even_if_they_are_nan() -> None:
    params = stack((torch.nan, 0.1), (1e30, 0.3))
    pull_(params, leaves(0.3, 0.7), 1.0)
    assert params["a"].flatten().tolist() == [0.3, 0.3]
    assert params["b"].flatten().tolist() == [0.7, 0.7]


@given(st.floats(-1e300, 1e300), st.floats(0.0, 1.0))
def test_a_row_on_the_target_stays_there_bit_for_bit(value: float, strength: float) -> None:
    params = stack((value, -value))
    pull_(params, leaves(value, -value), strength)
    assert (params["a"].item(), params["b"].item()) == (value, -value)


def test_the_target_stays_where_it_is() -> None:
    target = leaves(3.0, 4.0)
    pull_(stack((0.0, 0.0)), target, 0.5)
    put_(stack((0.0, 0.0)), target)
    assert [leaf.item() for leaf in target.values()] == [3.0, 4.0]


def test_put_copies_the_target_into_every_row() -> None:
    params = stack((0.0, 1.0), (2.0, 3.0))
    before = params["a"].data_ptr()
    put_(params, leaves(5.0, 6.0))
    assert params["a"].flatten().tolist() == [5.0, 5.0]
    assert params["b"].flatten().tolist() == [6.0, 6.0]
    assert params["a"].data_ptr() == before


def test_what_blends_may_be_of_fewer_bits() -> None:
    own, other = leaves(0.0, 10.0), Leaves.copy_of({"a": torch.ones(1, 1), "b": torch.ones(1, 1)})
    blend_(own, other, 0.5)
    assert [leaf.item() for leaf in own.values()] == [0.5, 5.5]


def test_blend_moves_leaves_their_share_toward_others() -> None:
    own, other = leaves(0.0, 10.0), leaves(10.0, 0.0)
    blend_(own, other, 0.9)
    torch.testing.assert_close(own["a"].item(), 9.0)
    torch.testing.assert_close(own["b"].item(), 1.0)
    assert other["a"].tolist() == [10.0]
