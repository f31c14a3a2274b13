"""The proximal pulls of several local steps are made at once, and are as strong together."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

import grawa
from grawa.math.leaves import Leaves, Rows
from grawa.rounds.drift import Drift
from grawa.strategies.protocol import Communicator, Stack, State

STARTS = 1.0, 3.0


def followed(
    strategy: grawa.Strategy, steps: int, sync_every: int, **options: Any
) -> list[list[float]]:
    """Two numbers that nothing but pulls moves, from `STARTS`; the center starts at zero.

    Returns:
        Where they are after each round.
    """
    models = [nn.Linear(1, 1, bias=False).double() for _ in STARTS]
    for model in models:
        nn.init.zeros_(model.weight)
    optimizers = [SGD(model.parameters(), lr=0.0) for model in models]
    found: list[list[float]] = []
    averager = grawa.Averager(
        models, optimizers, strategy, sync_every=sync_every, guard=None, **options
    )
    with averager:
        for model, start in zip(models, STARTS, strict=True):
            nn.init.constant_(model.weight, start)
        for step in range(steps):
            for model in models:
                model.weight.grad = torch.zeros_like(model.weight)
            for optimizer in optimizers:
                optimizer.step()
            if averager.round > len(found):
                found.append([float(model.weight.detach()) for model in models])
            assert averager.step == step + 1
    return found


def by_hand(prox: float, steps: int, sync_every: int, late: int) -> list[list[float]]:
    """A pull after each step; at a round the mean becomes the center, `late` steps later."""
    workers, center, found, mean = list(STARTS), 0.0, [], 0.0
    for step in range(1, steps + 1):
        strength = prox / sync_every
        workers = [x + strength * (center - x) for x in workers]
        if step % sync_every == 0:
            mean = sum(workers) / len(workers)
        if step > late and (step - late) % sync_every == 0:
            center = mean
            found.append(list(workers))
    return found


@pytest.mark.parametrize("prox", [0.001, 0.01, 0.1, 0.9])
@pytest.mark.parametrize("sync_every", [1, 7, 32])
def test_pulls_made_at_once_are_those_after_every_step(prox: float, sync_every: int) -> None:
    strategy = grawa.LocalSGD(pull=0.0, prox=prox)
    steps = 3 * sync_every
    found = followed(strategy, steps, sync_every)
    torch.testing.assert_close(
        torch.tensor(found),
        torch.tensor(by_hand(prox, steps, sync_every, late=0)),
        rtol=1e-12,
        atol=0.0,
    )


@pytest.mark.parametrize("prox", [0.01, 0.1])
def test_pulls_go_to_the_center_that_held_at_each_step(prox: float) -> None:
    strategy = grawa.LocalSGD(pull=0.0, prox=prox)
    found = followed(strategy, 40, 16, overlap_steps=5)
    expected = by_hand(prox, 40, 16, late=5)
    torch.testing.assert_close(
        torch.tensor(found[:2]), torch.tensor(expected), rtol=1e-12, atol=0.0
    )


def test_a_full_pull_puts_workers_on_the_center() -> None:
    assert followed(grawa.LocalSGD(pull=0.0, prox=1.0), 1, 1) == [[0.0, 0.0]]


class _Counting(grawa.LocalSGD):
    """Counts its pulls."""

    def drift(self, params: Stack, state: State, share: float) -> None:
        pulls.append(share)
        super().drift(params, state, share)


pulls: list[float] = []


@pytest.mark.parametrize(
    ("prox", "sync_every", "times"), [(0.01, 32, 4), (0.01, 400, 4), (0.01, 2, 2), (0.5, 32, 32)]
)
def test_a_small_prox_takes_four_pulls_a_round(prox: float, sync_every: int, times: int) -> None:
    pulls.clear()
    followed(_Counting(pull=0.0, prox=prox), sync_every, sync_every)
    assert len(pulls) == times
    assert sum(pulls) == pytest.approx(1.0, rel=0.01)


def test_workers_that_step_by_themselves_are_pulled_by_themselves() -> None:
    strategy = grawa.LocalSGD(prox=0.01)
    params = Rows([("x", torch.tensor([[1.0], [3.0]], dtype=torch.float64))])
    drift = Drift(strategy, range(2))
    drift.bind(params, {"center": Leaves.copy_of({"x": torch.zeros(1, 1, dtype=torch.float64)})})
    due = [drift.add(slice(0, 1), 0.01, [step, 0]) for step in (1, 2, 3)]
    due.append(drift.add(slice(1, 2), 0.01, [3, 1]))
    assert not any(due) and drift.is_due()
    drift.make()
    assert not drift.is_due()
    expected = torch.tensor([[(1 - 1e-4) ** 3], [3.0 * (1 - 1e-4)]], dtype=torch.float64)
    torch.testing.assert_close(params["x"], expected, rtol=1e-13, atol=0.0)


def drawn_pulls(workers: int, steps: int, strategy: grawa.LocalSGD, share: float) -> Tensor:
    """Where workers that start at 1 are after so many steps, if only pulls to 0 move them, (N,)."""
    params = Rows([("x", torch.ones(workers, 1, dtype=torch.float64))])
    drift = Drift(strategy, range(workers))
    drift.bind(params, {"center": Leaves.copy_of({"x": torch.zeros(1, 1, dtype=torch.float64)})})
    for step in range(1, steps + 1):
        drift.add(slice(None), share, [step] * workers)
    drift.make()
    return params["x"].flatten()


def test_drawn_pulls_are_as_strong_on_average_as_one_after_every_step() -> None:
    workers, steps, share, probability = 4000, 8, 0.1, 0.25
    drawn = grawa.LocalSGD(prox=0.8, prox_probability=probability)
    found = drawn_pulls(workers, steps, drawn, share)
    every = drawn_pulls(1, steps, grawa.LocalSGD(prox=0.8), share)[0]
    # After each step a worker is what it was with probability 1 - p, or (1 - s/p) of that.
    strength = 0.8 * share / probability
    square = (1 - probability + probability * (1 - strength) ** 2) ** steps
    spread = float((square - every**2).sqrt())
    assert abs(float(found.mean() - every)) < 4.0 * spread / workers**0.5
    assert float(found.std()) == pytest.approx(spread, rel=0.05)


def test_draws_depend_on_seed_worker_and_step_alone() -> None:
    def draws(seed: int, workers: Sequence[int], steps: Sequence[int]) -> list[bool]:
        own = grawa.LocalSGD(prox=0.1, prox_probability=0.5, prox_seed=seed)
        return [own.prox_at(worker, step) > 0.0 for worker in workers for step in steps]

    many = range(64)
    assert draws(1, many, many) == draws(1, many, many)
    assert draws(0, [5], many) != draws(1, [5], many)
    assert draws(0, [5], many) != draws(0, [6], many)
    assert draws(0, many, [5]) != draws(0, many, [6])
    assert sum(draws(0, many, many)) == pytest.approx(64 * 64 / 2, abs=4 * 32)


def test_a_drawn_pull_that_would_go_beyond_the_center_ends_there() -> None:
    found = drawn_pulls(50, 1, grawa.LocalSGD(prox=1.0, prox_probability=0.25), share=1.0)
    assert set(found.tolist()) == {0.0, 1.0}


def test_hosted_workers_draw_by_their_numbers_among_all() -> None:
    strategy = grawa.LocalSGD(prox=0.5, prox_probability=0.5)
    owed = []
    for hosted in (range(4), range(2, 4)):
        drift = Drift(strategy, hosted)
        for step in range(1, 9):
            drift.add(slice(None), 0.1, [step] * len(hosted))
        owed.append(drift.state_dict()["owed"])
    assert owed[0][2:] == owed[1]
    assert len(set(owed[0])) > 1


class _OfItsOwn(grawa.Strategy):
    """Drifts without a `prox`, by what it is told."""

    def sync(
        self, params: Stack, scores: Any, state: State, comm: Communicator, round: int
    ) -> None:
        """Does nothing."""

    def drift(self, params: Stack, state: State, share: float) -> None:
        for rows in params.values():
            rows.sub_(share)

    def consensus(self, params: Stack, state: State, comm: Communicator) -> Leaves:
        raise NotImplementedError


def test_a_strategy_that_drifts_without_prox_does_so_after_every_step() -> None:
    (found,) = followed(_OfItsOwn(), 8, 8)
    assert found == pytest.approx([start - 1.0 for start in STARTS])
