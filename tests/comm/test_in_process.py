"""All workers in one process: means against a dense reference, bytes against closed form."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from grawa.comm import InProcessCommunicator
from grawa.errors import DivergedError, UserError
from grawa.math.weights import one_hot_smallest, uniform

SHAPES = {"a": (3, 2), "b": (5,), "c": ()}


def rows_of(workers: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(workers, *shape, generator=generator, dtype=torch.float64)
        for name, shape in SHAPES.items()
    }


@given(st.integers(1, 6), st.integers(0, 99), st.booleans())
def test_the_mean_is_the_dense_weighted_mean_leaf_by_leaf(
    workers: int, seed: int, per_leaf: bool
) -> None:
    rows = rows_of(workers, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    columns = len(rows) if per_leaf else 1
    weights = torch.rand(workers, columns, generator=generator, dtype=torch.float64) + 0.01
    mean = InProcessCommunicator(workers).weighted_mean(rows, weights)
    for leaf, (name, values) in enumerate(rows.items()):
        column = weights[:, leaf if per_leaf else 0]
        dense = torch.einsum("n...,n->...", values, column / column.sum())
        torch.testing.assert_close(mean[name], dense, rtol=0.0, atol=1e-14)


def test_a_row_of_weight_zero_contributes_nothing_even_if_it_is_nan() -> None:
    rows = rows_of(3)
    for values in rows.values():
        values[1] = math.nan
    mean = InProcessCommunicator(3).weighted_mean(rows, torch.tensor([[0.5], [0.0], [0.5]]))
    for name, values in rows.items():
        torch.testing.assert_close(mean[name], (values[0] + values[2]) / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equal_rows_give_that_row_bit_for_bit(dtype: torch.dtype) -> None:
    row = torch.randn(1000).to(dtype)
    weights = torch.tensor([[0.1], [0.7], [0.3], [1e-9]], dtype=torch.float64)
    mean = InProcessCommunicator(4).weighted_mean({"x": row.expand(4, -1)}, weights)
    assert torch.equal(mean["x"], row)


def test_the_mean_goes_where_it_is_asked_to() -> None:
    comm = InProcessCommunicator(2)
    first = comm.weighted_mean(rows_of(2), uniform(2))
    address = first["a"].data_ptr()
    second = comm.weighted_mean(rows_of(2, seed=5), uniform(2), first)
    assert second is first
    assert second["a"].data_ptr() == address
    torch.testing.assert_close(second["a"], rows_of(2, seed=5)["a"].mean(dim=0))


@pytest.mark.parametrize(
    ("weights", "error"),
    [
        ([[-0.1], [1.1]], ValueError),
        ([[0.0], [0.0]], ValueError),
        ([[math.nan], [1.0]], DivergedError),
        ([[math.inf], [1.0]], DivergedError),
    ],
)
def test_weights_that_make_no_mean_are_refused(
    weights: list[list[float]], error: type[Exception]
) -> None:
    with pytest.raises(error, match="weight"):
        InProcessCommunicator(2).weighted_mean(rows_of(2), torch.tensor(weights))


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.complex64, torch.bool])
def test_gathered_rows_are_everyones_in_their_own_dtype(dtype: torch.dtype) -> None:
    comm = InProcessCommunicator(3)
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]).to(dtype)
    gathered = comm.gather(rows)()
    assert gathered.dtype == dtype
    assert gathered.tolist() == rows.tolist()
    assert comm.hosted(gathered).tolist() == rows.tolist()
    assert comm.num_workers == comm.num_hosted == 3


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_a_mean_costs_what_a_ring_all_reduce_costs(workers: int) -> None:
    comm = InProcessCommunicator(workers)
    comm.weighted_mean(rows_of(workers), uniform(workers))  # 12 float64 numbers
    assert comm.bytes_sent * workers == 2 * (workers - 1) * 12 * 8


def test_followers_of_a_leader_send_no_rows() -> None:
    comm = InProcessCommunicator(4)
    comm.weighted_mean(rows_of(4), one_hot_smallest(torch.tensor([[2.0], [1.0], [3.0], [4.0]])))
    # The leader sends the model once, and the three others a third of it to each other two.
    assert comm.bytes_sent * 4 == 96 + 3 * 2 * 32


def test_a_gather_costs_every_row_to_every_other_worker() -> None:
    comm = InProcessCommunicator(4)
    comm.gather(torch.zeros(4, 7))
    comm.gather(torch.zeros(4, 7, dtype=torch.bool))
    assert comm.bytes_sent == 3 * 7 * 4 + 3 * 7


def test_teams_are_consecutive_workers_with_means_of_their_own() -> None:
    comm = InProcessCommunicator(6)
    teams = comm.split(2)
    assert [team.workers for team in teams] == [slice(0, 2), slice(2, 4), slice(4, 6)]
    assert [team.hosted for team in teams] == [team.workers for team in teams]
    rows = rows_of(6)
    for team in teams:
        members = {name: values[team.hosted] for name, values in rows.items()}
        mean = team.transport.weighted_mean(members, uniform(2))
        torch.testing.assert_close(mean["a"], rows["a"][team.workers].mean(dim=0))


def test_what_teams_send_is_sent() -> None:
    comm = InProcessCommunicator(4)
    for team in comm.split(2):
        team.transport.gather(torch.zeros(2, 3))
    assert comm.bytes_sent == 3 * 4


def test_a_count_is_exact_and_can_be_set() -> None:
    comm = InProcessCommunicator(2)
    assert [comm.count(3), comm.count(1), comm.count(0)] == [3, 4, 4]
    comm.reset_count(10)
    assert comm.count(2) == 12


@pytest.mark.parametrize("dtype", [torch.int64, torch.float8_e4m3fn, torch.complex64, torch.bool])
def test_what_can_not_be_averaged_is_refused_by_name(dtype: torch.dtype) -> None:
    rows = {"fine": torch.zeros(2, 1), "odd": torch.zeros(2, 3).to(dtype)}
    with pytest.raises(UserError, match=f"'odd' is of {dtype}, which can't be averaged"):
        InProcessCommunicator(2).weighted_mean(rows, uniform(2))


def test_leaves_without_elements_do_not_touch_the_others() -> None:
    rows = {"a": torch.zeros(2, 0, 3), "b": torch.tensor([[1.0], [3.0]]), "c": torch.zeros(2, 3, 0)}
    mean = InProcessCommunicator(2).weighted_mean(rows, uniform(2))
    assert mean["b"].tolist() == [2.0]
    assert (mean["a"].shape, mean["c"].shape) == ((0, 3), (3, 0))


def test_rows_that_do_not_fill_their_memory_have_a_mean_too() -> None:
    wide = torch.arange(12.0).view(2, 2, 3)
    rows = {"cut": wide[:, :, :2], "same": torch.tensor([[1.0], [3.0]]).expand(2, 4)}
    mean = InProcessCommunicator(2).weighted_mean(rows, uniform(2))
    assert mean["cut"].tolist() == [[3.0, 4.0], [6.0, 7.0]]
    assert mean["same"].tolist() == [2.0] * 4


@pytest.mark.parametrize("size", [0, 4, 7, -1])
def test_workers_that_would_be_left_over_are_refused(size: int) -> None:
    with pytest.raises(UserError, match=f"6 workers can't be split into teams of {size}"):
        InProcessCommunicator(6).split(size)


def test_there_is_at_least_one_worker() -> None:
    with pytest.raises(ValueError, match="at least one worker, got 0"):
        InProcessCommunicator(0)
