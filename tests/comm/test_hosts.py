"""Which processes count as a host, by what they share or by what the user says."""

import os
import time
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.optim import SGD

import grawa
from grawa.comm import DistributedCommunicator
from tests.comm.test_distributed import rows_of
from tests.world import on_ranks, outcomes

pytestmark = pytest.mark.world


def arranged(machines: tuple[int, ...] | None, **options: Any) -> tuple[str, str]:
    """How an averager's processes, and a team's, say that they reach each other."""
    ranks = range(dist.get_world_size())
    with patch("grawa.comm.hosts.this_machine", lambda: (machines or ranks)[dist.get_rank()]):
        model = nn.Linear(3, 2)
        optimizer = SGD(model.parameters(), lr=0.1)
        if options.pop("mesh", False):
            options["hosts"] = init_device_mesh("cpu", (2, 2), mesh_dim_names=("host", "process"))
        strategy = grawa.LSGD(team_size=2, leader_every=2)
        averager = grawa.Averager(model, optimizer, strategy, **options)
        (team,) = averager._engine.comm.split(2)
        return averager.arrangement, team.transport.arrangement


TWO = "2 hosts with 2, 2 processes (found by the machine and network they share); inside by shared"
GIVEN = "2 hosts with 2, 2 processes (as given); inside by "


def test_hosts_are_found_by_what_processes_share() -> None:
    for whole, team in on_ranks(4, arranged, (1, 1, 2, 2)):
        assert whole.startswith(TWO)
        assert team == "2 processes, by shared memory"
    for whole, team in on_ranks(4, arranged, (1, 2, 1, 2)):
        assert whole.startswith(TWO)
        assert team == "2 processes, by gloo"
    for whole, _ in on_ranks(4, arranged, (1, 2, 3, 4)):
        assert whole == "4 processes, by gloo"
    for whole, _ in on_ranks(4, arranged, (1, 1, 1, 1)):
        assert whole == "4 processes, by shared memory"
    for whole, _ in on_ranks(4, arranged, (1, 1, 1, 2)):
        assert "2 hosts with 3, 1 processes" in whole
        assert "from each of the first 1" in whole


def test_hosts_may_be_given_by_ranks_or_as_a_mesh() -> None:
    one_machine = (0, 0, 0, 0)
    for whole, _ in on_ranks(4, arranged, one_machine, hosts=[[0, 1], [2, 3]]):
        assert whole.startswith(GIVEN + "shared memory")
    for whole, _ in on_ranks(4, arranged, one_machine, hosts=[range(4)]):
        assert whole == "4 processes, by shared memory"
    for whole, _ in on_ranks(4, arranged, one_machine, hosts=[[0], [1], [2], [3]]):
        assert whole == "4 processes, by gloo"
    for whole, _ in on_ranks(4, arranged, one_machine, mesh=True):
        assert whole.startswith(GIVEN + "shared memory")
    for whole, _ in on_ranks(4, arranged, (1, 2, 3, 4), hosts=[[0, 1], [2, 3]]):
        assert whole.startswith(GIVEN + "gloo")


@pytest.mark.parametrize(
    "hosts", [[[0, 1], [2]], [[0, 1], [1, 2, 3]], [[0, 1, 2, 3], [3]]], ids=str
)
def test_hosts_that_leave_out_a_rank_or_name_it_twice_are_refused(hosts: list[list[int]]) -> None:
    for outcome in outcomes(4, arranged, (0, 0, 0, 0), hosts=hosts):
        assert isinstance(outcome, grawa.UserError)
        assert "hosts must name each of the ranks [0, 1, 2, 3] once" in str(outcome)


def hosts_of_this_rank() -> tuple[str, str]:
    odd = dist.get_rank() == 3
    return arranged((0, 0, 0, 0), hosts=[[0, 1, 2, 3]] if odd else [[0, 1], [2, 3]])


def test_ranks_that_disagree_about_hosts_are_told_so_at_once() -> None:
    began = time.monotonic()
    for rank, outcome in enumerate(outcomes(4, hosts_of_this_rank)):
        assert isinstance(outcome, grawa.UserError)
        others = [0, 1, 2] if rank == 3 else [3]
        assert f"hosts must be the same on every rank; those of ranks {others}" in str(outcome)
    assert time.monotonic() - began < 20.0


def backend_of_this_rank() -> None:
    between: Any = "gloo" if dist.get_rank() == 3 else None
    arranged((0, 0, 0, 0), between_hosts=between)


def test_ranks_that_disagree_about_the_backend_between_hosts_are_told_so_at_once() -> None:
    began = time.monotonic()
    for rank, outcome in enumerate(outcomes(4, backend_of_this_rank)):
        assert isinstance(outcome, grawa.UserError)
        others = [0, 1, 2] if rank == 3 else [3]
        assert f"between_hosts must be the same on every rank; those of ranks {others}" in str(
            outcome
        )
    assert time.monotonic() - began < 20.0


def released_and_used_again() -> bool:
    with patch("grawa.comm.hosts.this_machine", lambda: dist.get_rank() // 2):
        comm = DistributedCommunicator()
        weights = torch.full((4, 1), 0.25, dtype=torch.float64)
        rows = rows_of(range(dist.get_rank(), dist.get_rank() + 1))
        found = []
        for _ in range(3):
            found.append(comm.weighted_mean(rows, weights))
            comm.release()
        if dist.get_rank() == 0:  # needs no other process
            assert comm.arrangement.startswith(TWO)
        return all(torch.equal(found[0][n], x) for mean in found[1:] for n, x in mean.items())


def test_a_transport_of_two_levels_can_be_released_and_used_again() -> None:
    assert on_ranks(4, released_and_used_again) == [True] * 4


def by_gloo_between(hosts: list[list[int]]) -> tuple[str, dict[str, torch.Tensor], list[str]]:
    """The arrangement, a mean, and the backends asked for, with gloo between hosts."""
    asked: list[str] = []
    make = dist.new_group

    def noted(ranks: Any, **options: Any) -> Any:
        asked.append(str(options["backend"]))
        return make(ranks, **options)

    with patch.object(dist, "new_group", noted):
        comm = DistributedCommunicator(num_hosted=2, hosts=hosts, between_hosts="gloo")
    rank = dist.get_rank()
    rows = rows_of(range(2 * rank, 2 * rank + 2))
    found = dict(comm.weighted_mean(rows, _weights_of_eight()))
    comm.release()
    again = dict(comm.weighted_mean(rows, _weights_of_eight()))
    assert all(torch.equal(found[name], leaf) for name, leaf in again.items())
    return comm.arrangement, found, asked


@pytest.mark.parametrize(
    ("hosts", "backends"),
    [
        ([[0, 1], [2, 3]], ["gloo", "None", "gloo"]),
        ([[0, 2, 3], [1]], ["gloo", "None", "gloo"]),
        ([[0, 1, 2, 3]], ["gloo", "None"]),
        ([[0], [1], [2], [3]], ["gloo"]),
    ],
    ids=str,
)
def test_gloo_sends_between_hosts_and_the_groups_own_backend_inside(
    hosts: list[list[int]], backends: list[str]
) -> None:
    found = on_ranks(4, by_gloo_between, hosts)
    plain = on_ranks(4, mean_of_two_workers_each, hosts)
    for (arrangement, mean, asked), usual in zip(found, plain, strict=True):
        assert asked == backends
        assert all(torch.equal(mean[name], leaf) for name, leaf in usual.items())
        if 1 < len(hosts) < 4 and "None" in asked:
            assert "between hosts" in arrangement


def test_no_other_backend_can_be_asked_for_between_hosts() -> None:
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(grawa.UserError, match='between_hosts must be None or "gloo"'):
        grawa.Averager(model, optimizer, grawa.LGRAWA(), between_hosts="nccl")  # type: ignore[arg-type]


def lose_a_rank(seconds: float) -> None:
    comm = DistributedCommunicator(timeout=timedelta(seconds=4), hosts=[[0, 1], [2, 3]])
    rows = {"x": torch.ones(1, 100)}
    weights = torch.full((4, 1), 0.25, dtype=torch.float64)
    comm.weighted_mean(rows, weights)
    if dist.get_rank() == 3:
        os._exit(1)
    time.sleep(seconds)
    comm.weighted_mean(rows, weights)


@pytest.mark.parametrize("seconds", [0.0, 0.5], ids=["at the call", "before the call"])
def test_a_lost_rank_is_named_with_its_host_within_the_timeout(seconds: float) -> None:
    began = time.monotonic()
    found = outcomes(4, lose_a_rank, seconds)
    assert time.monotonic() - began < 30.0
    for outcome in found[:3]:
        assert isinstance(outcome, grawa.CommunicationError)
    for neighbour in (1, 2):  # of the same place, and of the same host
        assert "lost contact with rank 3 on host 1" in str(found[neighbour])


def mean_of_two_workers_each(hosts: list[list[int]]) -> dict[str, torch.Tensor]:
    comm = DistributedCommunicator(num_hosted=2, hosts=hosts)
    rank = dist.get_rank()
    rows = rows_of(range(2 * rank, 2 * rank + 2))
    everyone = comm.gather(torch.tensor([[float(2 * rank)], [2 * rank + 1.0]]))()
    assert everyone.flatten().tolist() == list(range(8))
    return dict(comm.weighted_mean(rows, _weights_of_eight()))


def _weights_of_eight() -> torch.Tensor:
    weights = torch.rand(8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    weights[5] = 0.0
    return weights


@pytest.mark.parametrize("hosts", [[[0, 1], [2, 3]], [[0, 2, 3], [1]]], ids=str)
def test_processes_on_hosts_may_host_several_workers(hosts: list[list[int]]) -> None:
    found = on_ranks(4, mean_of_two_workers_each, hosts)
    weights = _weights_of_eight()
    for leaf, (name, rows) in enumerate(rows_of(range(8)).items()):
        own = weights[:, leaf] / weights[:, leaf].sum()
        dense = torch.einsum("n...,n->...", rows.double(), own)
        tolerance = 1e-14 if rows.dtype == torch.float64 else 1e-6
        for mean in found:
            assert torch.equal(mean[name], found[0][name])
            torch.testing.assert_close(mean[name].double(), dense, rtol=0.0, atol=tolerance)
