"""Norms and the proximal pull after each m-th local step only."""

import math

import pytest
import torch
from torch import nn
from torch.optim import SGD

import grawa


def constant_gradients(prox: float, every: int, steps: int) -> tuple[float, list[float]]:
    """One number that nothing but the proximal pull moves; gradients 1, 2, 3, ...

    Returns:
        Where it is in the end, and the score of each round.
    """
    models = [nn.Linear(1, 1, bias=False).double() for _ in range(2)]
    for model in models:
        nn.init.zeros_(model.weight)
    optimizers = [SGD(model.parameters(), lr=0.0) for model in models]
    scores: list[float] = []

    def note(report: grawa.RoundReport) -> None:
        assert report.scores is not None
        scores.append(float(report.scores[0, 0]))

    strategy = grawa.MGRAWA(prox=prox, pull=0.0)
    with grawa.Averager(
        models, optimizers, strategy, sync_every=8, hook_every=every, on_round=[note]
    ):
        for model in models:
            nn.init.ones_(model.weight)  # the center stays at 0 until the first round
        for step in range(1, steps + 1):
            for model, optimizer in zip(models, optimizers, strict=True):
                model.weight.grad = torch.full_like(model.weight, float(step))
                optimizer.step()
    return float(models[0].weight.detach()), scores


@pytest.mark.parametrize("every", [1, 2, 4, 8])
def test_the_pull_is_as_many_times_as_strong(every: int) -> None:
    moved, _ = constant_gradients(prox=0.4, every=every, steps=7)
    assert moved == pytest.approx((1.0 - 0.05 * every) ** (7 // every))


@pytest.mark.parametrize("every", [1, 2, 4])
def test_the_norms_are_those_of_these_steps(every: int) -> None:
    _, scores = constant_gradients(prox=0.0, every=every, steps=8)
    noted = range(every, 9, every)
    mean = 0.0
    for step in noted:
        mean = 0.85 * mean + 0.15 * step
    assert scores == [pytest.approx(mean / (1.0 - 0.85 ** len(noted)), rel=1e-6)]
    assert math.isfinite(scores[0])


@pytest.mark.parametrize("every", [0, -1, 9, 2.0])
def test_it_must_lie_within_a_cycle(every: int) -> None:
    model = nn.Linear(1, 1)
    with pytest.raises(grawa.UserError, match="hook_every must be"):
        grawa.Averager(
            model, SGD(model.parameters()), grawa.LGRAWA(), sync_every=8, hook_every=every
        )
