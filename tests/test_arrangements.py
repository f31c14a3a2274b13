"""The same training in 4 processes of 1 worker, also on two hosts, 2 of 2 and 1 of 4."""

import math
from dataclasses import dataclass
from functools import cache, partial
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

import grawa
from grawa.comm import DistributedCommunicator
from tests.helpers import (
    INPUTS,
    OUTPUTS,
    STRATEGIES,
    Fleet,
    batches,
    flat_state,
    measurements,
    poison,
    sgd,
)
from tests.world import on_ranks

pytestmark = pytest.mark.world

WORKERS = 4
STEPS, SYNC_EVERY, ROUNDS = 15, 3, 5

KINDS = ["lgrawa", "easgd", "lsgd in teams", "diloco", "data parallel"]
"""One of each kind: scores, a center, teams, an outer optimizer, gradients."""

ADAMW = ["lgrawa", "lsgd in teams", "diloco"]
TIMED = [*KINDS, "local sgd with warm-up", "dppf"]
"""The kinds, and what goes by the number of steps or rounds."""


def with_statistics(dtype: torch.dtype) -> nn.Module:
    """A network with BatchNorm in which every parameter has a gradient.

    A bias before BatchNorm would have none but rounding noise, which Adam makes large.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Linear(INPUTS, 8, bias=False), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, OUTPUTS)
        ).to(dtype)


def adamw(model: nn.Module) -> Optimizer:
    return AdamW(model.parameters(), lr=0.02)


OPTIMIZERS = {"sgd": sgd, "adamw": adamw}


@dataclass
class Trained:
    """What came of a training, as one process saw it."""

    params: Tensor
    """(K, P)"""
    buffers: Tensor
    """(K, C)"""
    consensus: Tensor
    rounds: int
    weights: list[Tensor | None]
    losses: list[Tensor]
    measured: list[float | None]
    left_out: list[dict[int, str]]
    bytes_sent: int


def train(
    strategy: grawa.Strategy,
    dtype: torch.dtype = torch.float64,
    optimizer: str = "sgd",
    broken: tuple[int, ...] = (),
    **options: Any,
) -> Trained:
    """Trains this process's part of the workers; broken ones are NaN before step 5."""
    processes, process = (
        (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    )
    hosted = range(WORKERS)[process * WORKERS // processes :][: WORKERS // processes]
    data = batches(STEPS, WORKERS, dtype, scales=[1.0, 0.7, 1.3, 1.0]).workers(hosted)
    fleet = Fleet(len(hosted), partial(with_statistics, dtype), OPTIMIZERS[optimizer])
    reports: list[grawa.RoundReport] = []
    with grawa.Averager(
        fleet.models,
        fleet.optimizers,
        strategy,
        **{"sync_every": SYNC_EVERY, **options},
        measure_distance=True,
        on_round=[reports.append],
    ) as averager:
        fleet.train(data.steps(0, 4), averager)
        for worker in set(broken) & set(hosted):
            poison(fleet.models[worker - hosted[0]])
        fleet.train(data.steps(4, STEPS), averager)
    return Trained(
        params=fleet.parameters(),
        buffers=torch.stack([
            torch.cat([buffer.to(dtype).flatten() for buffer in model.buffers()])
            for model in fleet.models
        ]),
        consensus=flat_state(fleet.models[0], averager.consensus()),
        rounds=averager.round,
        weights=[report.weights for report in reports],
        losses=[report.losses for report in reports],
        measured=[value for report in reports for value in measurements(report)],
        left_out=[report.left_out for report in reports],
        bytes_sent=averager.bytes_sent,
    )


BROKEN = {"broken": (1,)}  # it starts again from the consensus

CASES: dict[str, dict[str, Any]] = {
    "float64-sgd": {},
    "float32-adamw": {"dtype": torch.float32, "optimizer": "adamw"},
    "broken": BROKEN,
    "both": BROKEN | {"sync_every": 6, "fragments": 3, "overlap_steps": 1},
    "overlap, warm-up": BROKEN | {"schedule": grawa.Warmup(4, steps=5), "overlap_steps": 2},
    "fragments, quadratic": BROKEN | {"schedule": grawa.Quadratic(2, growth=0.05), "fragments": 2},
}
"""How strategies are trained: what `train` is given."""

CHOSEN = {
    "float32-adamw": ADAMW,
    "broken": KINDS,
    "overlap, warm-up": TIMED,
    "fragments, quadratic": TIMED,
}
"""The strategies of a case that does not try all."""


def train_all(case: str) -> dict[str, Trained]:
    """Trains with one strategy after the other."""
    found = {}
    for name in CHOSEN.get(case, STRATEGIES):
        try:
            found[name] = train(STRATEGIES[name], **CASES[case])
        except Exception as error:
            error.add_note(f"strategy {name}, case {case}")
            raise
    return found


HOSTS = "hosts"
"""Four processes, two on each of two hosts."""

SEVERAL = (4, 2, HOSTS)
"""Arrangements in several processes."""


def train_on_hosts(case: str) -> dict[str, Trained]:
    """As `train_all`, as if there were two processes on a host."""
    with patch("grawa.comm.hosts.this_machine", lambda: dist.get_rank() // 2):
        comm = DistributedCommunicator()
        assert "2 hosts with 2, 2 processes" in comm.arrangement
        comm.release()
        return train_all(case)


@cache
def trained(arrangement: int | str, case: str) -> dict[str, list[Trained]]:
    """What each process saw, for each strategy; all of them are one job of the world."""
    if arrangement == HOSTS:
        parts = on_ranks(4, train_on_hosts, case)
    elif arrangement == 1:
        parts = [train_all(case)]
    else:
        parts = on_ranks(int(arrangement), train_all, case)
    return {name: [part[name] for part in parts] for name in parts[0]}


def together(found: list[Trained], what: str) -> Tensor:
    """All workers' rows from all processes, (N, ...)."""
    return torch.cat([getattr(part, what) for part in found])


def numbers(measured: list[float | None]) -> Tensor:
    """Measurements, NaN where there is none."""
    found = [math.nan if value is None else value for value in measured]
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize(
    ("case", "tolerance", "name"),
    [
        *(("float64-sgd", 1e-12, name) for name in STRATEGIES),
        *(("float32-adamw", 1e-5, name) for name in ADAMW),
    ],
)
def test_every_arrangement_gives_the_same_numbers(case: str, tolerance: float, name: str) -> None:
    close: Any = partial(torch.testing.assert_close, rtol=0.0, atol=tolerance, equal_nan=True)
    (alone,) = trained(1, case)[name]
    assert alone.rounds == ROUNDS
    for arrangement in SEVERAL:
        found = trained(arrangement, case)[name]
        close(together(found, "params"), alone.params)
        close(together(found, "buffers"), alone.buffers)
        for part in found:
            assert part.rounds == ROUNDS
            assert torch.equal(part.consensus, found[0].consensus)
            close(part.consensus, alone.consensus)
            close(part.losses, alone.losses)
            close(part.weights, alone.weights)
            close(numbers(part.measured), numbers(alone.measured))


@pytest.mark.parametrize(
    ("case", "name"),
    [(case, name) for case in list(CASES)[3:] for name in CHOSEN.get(case, STRATEGIES)],
)
def test_rounds_in_the_background_and_in_parts_are_the_same_everywhere(
    case: str, name: str
) -> None:
    close: Any = partial(torch.testing.assert_close, rtol=0.0, atol=1e-12)
    (alone,) = trained(1, case)[name]
    for arrangement in SEVERAL:
        found = trained(arrangement, case)[name]
        close(together(found, "params"), alone.params)
        close(together(found, "buffers"), alone.buffers)
        assert found[0].rounds == alone.rounds > 2
        close(found[0].consensus, alone.consensus)


@pytest.mark.parametrize("name", ADAMW)
def test_four_processes_give_the_same_bits_twice(name: str) -> None:
    first = trained(4, "float32-adamw")[name]
    second = on_ranks(4, train, STRATEGIES[name], **CASES["float32-adamw"])
    for what in ("params", "buffers"):
        assert torch.equal(together(first, what), together(second, what))
    assert torch.equal(first[0].consensus, second[0].consensus)


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_is_sent_is_what_the_simulation_said(name: str) -> None:
    sent = sum(part.bytes_sent for part in trained(4, "float64-sgd")[name])
    (alone,) = trained(1, "float64-sgd")[name]
    # The simulation gives the mean of its N workers, in whole bytes.
    assert sent // WORKERS == alone.bytes_sent > 0


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("arrangement", SEVERAL)
def test_a_worker_that_becomes_nan_is_left_out_and_starts_again(
    name: str, arrangement: int | str
) -> None:
    found = trained(arrangement, "broken")[name]
    assert bool(torch.isfinite(together(found, "params")).all())
    for part in found:
        assert part.left_out[1][1] == "parameters are not finite"
        assert all("not finite" not in later.get(1, "") for later in part.left_out[2:])
        assert bool(torch.isfinite(part.consensus).all())
