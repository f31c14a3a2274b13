"""The communicator of one round: who is left out, and how far apart the workers are."""

import math

import pytest
import torch
from torch import Tensor

from grawa.comm import InProcessCommunicator, Participants
from grawa.math.leaves import Leaves
from grawa.math.norms import row_norms
from grawa.math.weights import uniform


def rows_of(workers: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "a": torch.randn(workers, 2, 3, generator=generator, dtype=torch.float64),
        "b": torch.randn(workers, 4, generator=generator, dtype=torch.float64),
    }


def dense(rows: dict[str, Tensor]) -> Tensor:
    return torch.cat([values.flatten(1) for values in rows.values()], dim=1)


def test_the_mean_is_over_those_who_take_part() -> None:
    rows = rows_of(4)
    rows["a"][1] = math.nan
    others = Participants(InProcessCommunicator(4), torch.tensor([True, False, True, True]))
    mean = others.weighted_mean(rows, uniform(4))
    torch.testing.assert_close(mean["a"], rows["a"][[0, 2, 3]].mean(dim=0))
    torch.testing.assert_close(mean["b"], rows["b"][[0, 2, 3]].mean(dim=0))


def test_the_weights_of_those_who_take_part_keep_their_ratio() -> None:
    rows = rows_of(3)
    weights = torch.tensor([[0.8], [0.15], [0.05]], dtype=torch.float64)
    others = Participants(InProcessCommunicator(3), torch.tensor([False, True, True]))
    mean = others.weighted_mean(rows, weights)
    torch.testing.assert_close(mean["b"], 0.75 * rows["b"][1] + 0.25 * rows["b"][2])


def test_everyone_is_still_counted() -> None:
    others = Participants(InProcessCommunicator(3), torch.tensor([True, False, True]))
    assert others.num_workers == 3
    assert others.active.tolist() == [True, False, True]
    assert Participants(InProcessCommunicator(3)).active.tolist() == [True] * 3


def test_leaves_are_as_far_apart_as_a_worker_that_takes_part_says() -> None:
    rows = rows_of(3)
    one, other = (Leaves.copy_of(rows, k) for k in (0, 2))
    others = Participants(InProcessCommunicator(3), torch.tensor([False, True, True]))
    found = others.leaf_distances(one, other)
    expected = [float((one[name] - other[name]).norm()) for name in rows]
    assert found.dtype is torch.float64
    assert found.tolist() == pytest.approx(expected, rel=1e-14)


def test_shares_are_equal_or_by_amounts_over_those_who_take_part() -> None:
    taking = torch.tensor([True, False, True])
    comm = InProcessCommunicator(3)
    assert Participants(comm, taking).shares.tolist() == [0.5, 0.0, 0.5]
    by_amounts = Participants(comm, taking, amounts=torch.tensor([1.0, 9.0, 3.0]))
    assert by_amounts.shares.tolist() == [0.25, 0.0, 0.75]
    nothing = Participants(comm, taking, amounts=torch.tensor([0.0, 9.0, 0.0]))
    assert nothing.shares.tolist() == [0.5, 0.0, 0.5]


def test_distances_are_to_the_first_mean_only() -> None:
    rows = rows_of(3)
    others = Participants(InProcessCommunicator(3), torch.ones(3, dtype=torch.bool), measure=True)
    others.weighted_mean(rows, uniform(3))
    moved = {name: values + 1.0 for name, values in rows.items()}
    others.weighted_mean(moved, torch.tensor([[1.0], [0.0], [0.0]]))
    table = dense(rows)
    assert others.distances is not None
    torch.testing.assert_close(others.distances, (table - table.mean(dim=0)).norm(dim=1))


def test_distances_are_not_measured_unasked() -> None:
    others = Participants(InProcessCommunicator(2), torch.ones(2, dtype=torch.bool))
    others.weighted_mean(rows_of(2), uniform(2))
    assert others.distances is None


@pytest.mark.parametrize("workers", [1, 3])
def test_a_distance_is_the_norm_over_all_leaves(workers: int) -> None:
    rows = rows_of(workers)
    target = Leaves.copy_of(rows_of(1))
    expected = (dense(rows) - dense(rows_of(1))).norm(dim=1)
    away = {name: values - target[name] for name, values in rows.items()}
    torch.testing.assert_close(row_norms(away.values()), expected)


def test_a_distance_over_mixed_dtypes_by_hand() -> None:
    rows = {"x": torch.tensor([[3.0]]), "y": torch.tensor([[4.0]], dtype=torch.float64)}
    assert row_norms(rows.values()).tolist() == [5.0]


def test_a_distance_between_16_bit_rows_is_not_rounded_to_16_bits() -> None:
    rows = {"x": torch.full((1, 1000), 1.0078125, dtype=torch.bfloat16)}
    distance = row_norms(rows.values())
    assert distance.dtype == torch.float32
    torch.testing.assert_close(distance, torch.tensor([1.0078125 * 1000**0.5]))


def test_a_team_of_which_nobody_takes_part_does_not_exist() -> None:
    active = torch.tensor([True, False, False, False, True, True])
    teams = Participants(InProcessCommunicator(6), active).split(2)
    assert [team.workers for team in teams] == [slice(0, 2), slice(4, 6)]


def test_those_who_are_left_out_are_left_out_of_their_team() -> None:
    rows = rows_of(4)
    teams = Participants(InProcessCommunicator(4), torch.tensor([True, True, False, True])).split(2)
    members = {name: values[2:] for name, values in rows.items()}
    assert torch.equal(teams[1].comm.weighted_mean(members, uniform(2))["a"], rows["a"][3])
