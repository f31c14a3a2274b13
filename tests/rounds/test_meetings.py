"""Processes that come for different things at once: they are served, or all raise the same."""

import time
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import grawa
from tests.helpers import flat
from tests.world import on_ranks, outcomes

TIMEOUT = timedelta(seconds=20)


def small(seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model that is the same everywhere, then random numbers that differ by rank."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    torch.manual_seed(100 + dist.get_rank())
    return model, optimizer


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 1) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 3, dtype=torch.float64)).square().mean().backward()
        optimizer.step()


def sums(state: dict[str, Any]) -> list[float]:
    return [
        float(value.sum())
        for name, value in state.items()
        if "running" not in name and "tracked" not in name
    ]


def uneven_epochs(
    strategy: grawa.Strategy, batches: int, epochs: int, options: dict[str, Any]
) -> tuple[list[list[float]], Tensor, int]:
    """Epochs of which rank 1 has one batch more; every rank evaluates after each."""
    model, optimizer = small()
    seen: list[list[float]] = []
    with grawa.Averager(model, optimizer, strategy, timeout=TIMEOUT, **options) as averager:
        for _ in range(epochs):
            train(model, optimizer, batches + dist.get_rank())
            seen.append(sums(averager.consensus()))
    return seen, flat(model), averager.round


@pytest.mark.world
@pytest.mark.parametrize("options", [{}, {"shared_memory": False}, {"overlap_steps": 1}])
@pytest.mark.parametrize("strategy", [grawa.LGRAWA(), grawa.LocalSGD()])
def test_uneven_epochs_evaluate_the_same_consensus_on_every_rank(
    strategy: grawa.Strategy, options: dict[str, Any]
) -> None:
    (first, ours, rounds), (second, theirs, others) = on_ranks(
        2, uneven_epochs, strategy, 10, 3, {"sync_every": 11, **options}
    )
    assert first == second
    assert rounds == others >= 3
    if isinstance(strategy, grawa.LocalSGD):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def evaluate_every_tenth_own_step() -> tuple[list[list[float]], int, int]:
    model, optimizer = small()
    seen: list[list[float]] = []
    schedule = grawa.SharedCount(4)
    with grawa.Averager(
        model, optimizer, grawa.LGRAWA(), schedule=schedule, timeout=TIMEOUT, shared_memory=False
    ) as averager:
        for step in range(30):
            train(model, optimizer)
            if dist.get_rank() == 1:
                time.sleep(0.002)
            if step % 10 == 9:
                seen.append(sums(averager.consensus()))
    return seen, averager.round, averager.step


@pytest.mark.world
def test_with_a_shared_count_ranks_may_evaluate_by_their_own_steps() -> None:
    (first, rounds, steps), (second, others, theirs) = on_ranks(2, evaluate_every_tenth_own_step)
    assert first == second
    assert len(first) == 3
    assert rounds == others
    assert steps == theirs == 30


def consensus_on_rank_0(when: str, steps: int = 6) -> tuple[int, Tensor, int]:
    model, optimizer = small()
    with grawa.Averager(
        model, optimizer, grawa.LocalSGD(), sync_every=2, timeout=TIMEOUT, shared_memory=False
    ) as averager:
        for step in range(steps):
            train(model, optimizer)
            if step == 2 and when == "amid" and dist.get_rank() == 0:
                averager.consensus()
        if when == "at the end" and dist.get_rank() == 0:
            averager.consensus()
    return averager.round, flat(model), averager.step


@pytest.mark.world
def test_a_rank_that_waits_for_a_consensus_through_whole_rounds_is_said_on_all() -> None:
    for error in outcomes(2, consensus_on_rank_0, "amid", steps=12):
        assert isinstance(error, UserWarning)
        assert "a round by worker 1; consensus() by worker 0" in str(error)


@pytest.mark.world
@pytest.mark.parametrize("when", ["amid", "at the end"])
def test_a_consensus_that_one_rank_alone_asks_for_is_served(when: str) -> None:
    (rounds, ours, steps), (others, theirs, _) = on_ranks(2, consensus_on_rank_0, when)
    assert rounds == others
    assert steps == 6
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def a_skipped_step(strategy: grawa.Strategy) -> None:
    model, optimizer = small()
    with grawa.Averager(model, optimizer, strategy, sync_every=4, timeout=TIMEOUT):
        for step in range(12):
            optimizer.zero_grad()
            model(torch.randn(8, 3, dtype=torch.float64)).square().mean().backward()
            if not (step == 5 and dist.get_rank() == 1):  # a GradScaler after an overflow
                optimizer.step()


@pytest.mark.world
def test_a_skipped_step_where_gradients_are_always_shared_is_said_on_every_rank() -> None:
    first, second = outcomes(2, a_skipped_step, grawa.DataParallel())
    assert isinstance(first, grawa.UserError) and str(first) == str(second)
    assert "`with` block by worker 1" in str(first) and "11 by worker 0, 11 by worker 1" in str(
        first
    )


@pytest.mark.world
def test_a_step_that_is_skipped_during_a_warm_up_is_no_obstacle() -> None:
    assert outcomes(2, a_skipped_step, grawa.LocalSGD(warmup_steps=8)) == [None, None]


def fails_on_rank_1() -> None:
    model, optimizer = small()
    with grawa.Averager(model, optimizer, grawa.LGRAWA(), sync_every=4, timeout=TIMEOUT):
        for step in range(8):
            train(model, optimizer)
            if step == 1 and dist.get_rank() == 1:
                model.get_submodule("0").register_parameter("extra", nn.Parameter(torch.ones(1)))
                optimizer.add_param_group({"params": [model.get_parameter("0.extra")]})


@pytest.mark.world
def test_what_stops_one_rank_before_a_round_is_said_on_the_others_at_once() -> None:
    mine, its = outcomes(2, fails_on_rank_1)
    assert isinstance(mine, grawa.UserError)
    assert isinstance(its, grawa.UserError)
    assert "worker 1 can't go on" in str(mine)
    assert "'0.extra' was given to the optimizer after" in str(its)


def synchronize_against_a_round() -> tuple[int, Tensor]:
    model, optimizer = small()
    with grawa.Averager(
        model, optimizer, grawa.LocalSGD(), sync_every=4, timeout=TIMEOUT
    ) as averager:
        train(model, optimizer, 3)
        if dist.get_rank() == 0:
            train(model, optimizer)  # its fourth: a round is due
        averager.synchronize()
        train(model, optimizer, 2)
    return averager.round, flat(model)


@pytest.mark.world
def test_a_round_that_is_asked_for_waits_for_one_that_is_due() -> None:
    (rounds, ours), (others, theirs) = on_ranks(2, synchronize_against_a_round)
    assert rounds == others
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
