"""The bias-corrected moving average: by hand, and with rows that are not finite."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from grawa.math.ema import Ema


def rows(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1)


def test_the_recursion_and_its_correction_by_hand() -> None:
    ema = Ema(0.85)
    for value in (1.0, 2.0, 4.0):
        ema.update(rows(value))
    moved = 0.15 * (0.85**2 * 1.0 + 0.85 * 2.0 + 4.0)
    assert ema.value().item() == pytest.approx(moved / (1 - 0.85**3), rel=1e-14)


@given(st.floats(1e-30, 1e30), st.integers(1, 50), st.floats(0.0, 0.99))
def test_a_constant_is_its_own_average(value: float, steps: int, decay: float) -> None:
    ema = Ema(decay)
    for _ in range(steps):
        ema.update(rows(value))
    assert ema.value().item() == pytest.approx(value, rel=1e-11)


def test_no_decay_keeps_the_last_value_only() -> None:
    ema = Ema(0.0)
    ema.update(rows(5.0))
    ema.update(rows(2.0))
    assert ema.value().tolist() == [[2.0]]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_is_passed_over_and_does_not_count(bad: float) -> None:
    ema, clean = Ema(0.5), Ema(0.5)
    for value, finite in ((2.0, True), (bad, False), (8.0, True)):
        ema.update(rows(value, 3.0))
        if finite:
            clean.update(rows(value))
    assert ema.value().tolist() == [[6.0], [3.0]]
    assert clean.value().tolist() == [[6.0]]


def test_one_bad_entry_passes_over_its_row_only() -> None:
    ema = Ema(0.5)
    ema.update(torch.tensor([[1.0, math.nan], [2.0, 3.0]]))
    ema.update(torch.tensor([[5.0, 6.0], [2.0, 3.0]]))
    assert ema.value().tolist() == [[5.0, 6.0], [2.0, 3.0]]


def test_a_row_that_was_never_finite_is_nan() -> None:
    ema = Ema(0.5)
    ema.update(rows(math.nan, 1.0))
    assert torch.isnan(ema.value()).tolist() == [[True], [False]]


def test_a_restart_forgets_everything() -> None:
    ema = Ema(0.9)
    ema.update(rows(100.0))
    ema.restart()
    ema.update(rows(3.0))
    assert ema.value().item() == pytest.approx(3.0, rel=1e-14)


def test_a_saved_average_goes_on_where_it_was() -> None:
    whole, first, second = Ema(0.7), Ema(0.7), Ema(0.7)
    for value in (1.0, 5.0):
        whole.update(rows(value))
        first.update(rows(value))
    second.load_state_dict(first.state_dict(), (1, 1))
    for ema in (whole, second):
        ema.update(rows(-2.0))
    assert torch.equal(whole.value(), second.value())


def test_an_average_of_other_rows_is_refused() -> None:
    ema = Ema(0.7)
    ema.update(rows(1.0))
    with pytest.raises(ValueError, match=r"mean is \(1, 1, 1\) .* not \(1, 2, 1\)"):
        Ema(0.7).load_state_dict(ema.state_dict(), (2, 1))


def test_copies_take_the_same_rows_and_restart_by_themselves() -> None:
    together, first, second = Ema(0.7, copies=2), Ema(0.7), Ema(0.7)
    for step, row in enumerate(torch.randn(6, 3, 2, dtype=torch.float64)):
        together.update(row)
        first.update(row)
        second.update(row)
        if step == 2:
            together.restart(1)
            second.restart()
    assert torch.equal(together.value(0), first.value())
    assert torch.equal(together.value(1), second.value())


def test_a_row_may_be_for_one_copy_alone() -> None:
    ema = Ema(0.5, copies=2)
    ema.update(rows(2.0), copy=1)
    ema.update(rows(8.0), copy=0)
    ema.update(rows(4.0), copy=0)
    assert ema.value(1).tolist() == [[2.0]]
    assert ema.value(0).item() == pytest.approx((0.25 * 8.0 + 0.5 * 4.0) / 0.75)


def test_the_average_has_the_rows_dtype() -> None:
    ema = Ema(0.5)
    ema.update(torch.ones(2, 3))
    assert ema.value().dtype == torch.float32
