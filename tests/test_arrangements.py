"""The same training in 4 processes of 1 worker, 2 of 2 and 1 of 4: the same numbers."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

import grawa
from tests.helpers import INPUTS, OUTPUTS, STRATEGIES, Fleet, batches, flat_state, poison, sgd
from tests.world import on_ranks

pytestmark = pytest.mark.world

WORKERS = 4
STEPS, SYNC_EVERY, ROUNDS = 15, 3, 5

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)

some_strategies = pytest.mark.parametrize(
    "strategy",
    [
        grawa.LGRAWA(),
        grawa.EASGD(),
        grawa.LSGD(team_size=2, leader_every=2),
        grawa.DiLoCo(),
        grawa.DataParallel(),
    ],
    ids=lambda strategy: type(strategy).__name__,
)


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
    distances: list[float | None]
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
        distances=[report.consensus_distance for report in reports],
        left_out=[report.left_out for report in reports],
        bytes_sent=averager.bytes_sent,
    )


def together(found: list[Trained], what: str) -> Tensor:
    """All workers' rows from all processes, (N, ...)."""
    return torch.cat([getattr(part, what) for part in found])


def numbers(distances: list[float | None]) -> Tensor:
    """Distances, NaN for rounds without a mean."""
    found = [math.nan if distance is None else distance for distance in distances]
    return torch.tensor(found, dtype=torch.float64)


@every_strategy
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 1e-5)],
    ids=["float64", "float32"],
)
def test_every_arrangement_gives_the_same_numbers(
    strategy: grawa.Strategy, optimizer: str, dtype: torch.dtype, tolerance: float
) -> None:
    close: Any = partial(torch.testing.assert_close, rtol=0.0, atol=tolerance, equal_nan=True)
    alone = train(strategy, dtype, optimizer)
    assert alone.rounds == ROUNDS
    for processes in (4, 2):
        found = on_ranks(processes, train, strategy, dtype, optimizer)
        close(together(found, "params"), alone.params)
        close(together(found, "buffers"), alone.buffers)
        for part in found:
            assert part.rounds == ROUNDS
            assert torch.equal(part.consensus, found[0].consensus)
            close(part.consensus, alone.consensus)
            close(part.losses, alone.losses)
            close(part.weights, alone.weights)
            close(numbers(part.distances), numbers(alone.distances))


@every_strategy
@pytest.mark.parametrize(
    "options",
    [
        {"sync_every": 4, "overlap_steps": 2},
        {"sync_every": 4, "fragments": 2},
        {"sync_every": 6, "fragments": 3, "overlap_steps": 1},
        {"schedule": grawa.Warmup(4, steps=5)},
        {"schedule": grawa.Quadratic(2, growth=0.05)},
    ],
    ids=["overlap", "fragments", "both", "warm-up", "quadratic"],
)
def test_rounds_in_the_background_and_in_parts_are_the_same_everywhere(
    strategy: grawa.Strategy, options: dict[str, Any]
) -> None:
    close: Any = partial(torch.testing.assert_close, rtol=0.0, atol=1e-12)
    broken = (1,)  # it starts again from the consensus
    alone = train(strategy, broken=broken, **options)
    for processes in (4, 2):
        found = on_ranks(processes, train, strategy, broken=broken, **options)
        close(together(found, "params"), alone.params)
        close(together(found, "buffers"), alone.buffers)
        assert found[0].rounds == alone.rounds > 2
        close(found[0].consensus, alone.consensus)


@some_strategies
def test_four_processes_give_the_same_bits_twice(strategy: grawa.Strategy) -> None:
    first, second = (on_ranks(4, train, strategy, torch.float32) for _ in range(2))
    for what in ("params", "buffers"):
        assert torch.equal(together(first, what), together(second, what))
    assert torch.equal(first[0].consensus, second[0].consensus)


@every_strategy
def test_what_is_sent_is_what_the_simulation_said(strategy: grawa.Strategy) -> None:
    sent = sum(part.bytes_sent for part in on_ranks(4, train, strategy))
    # The simulation gives the mean of its N workers, in whole bytes.
    assert sent // WORKERS == train(strategy).bytes_sent > 0


@some_strategies
@pytest.mark.parametrize("processes", [4, 2])
def test_a_worker_that_becomes_nan_is_left_out_and_starts_again(
    strategy: grawa.Strategy, processes: int
) -> None:
    found = on_ranks(processes, train, strategy, broken=(1,))
    assert bool(torch.isfinite(together(found, "params")).all())
    for part in found:
        assert part.left_out[1][1] == "parameters are not finite"
        assert all("not finite" not in later.get(1, "") for later in part.left_out[2:])
        assert bool(torch.isfinite(part.consensus).all())
