"""When a training ends: by steps, epochs, a budget or an error."""

import math
from collections.abc import Sequence
from functools import partial

import pytest
import torch
from torch.optim import Optimizer

import grawa
from grawa.lab.simulate.clock import VirtualClock
from grawa.lab.simulate.network import Link
from grawa.lab.tasks import Digits
from grawa.lab.train.events import Evaluated, Started
from grawa.lab.train.run import Run
from grawa.rounds.report import RoundReport
from tests.lab.train.runs import always, end, events, same_model, settings

STRATEGY = always(grawa.LGRAWA())
MODELLED = partial(VirtualClock, 0.1, link=Link(1e6, 0.0))


def rounds(found: Sequence[object]) -> list[RoundReport]:
    return [event for event in found if isinstance(event, RoundReport)]


def test_epochs_count_passes_over_the_smallest_shard() -> None:
    # 200 images for 4 workers: 50 each, in batches of 8.
    found = events(STRATEGY, settings(steps=None, epochs=2.0))
    started = found[0]
    assert isinstance(started, Started)
    assert started.steps == round(2 * 50 / 8)
    assert end(found).step == started.steps


@pytest.mark.parametrize("budget", [3.0, 5.1])
def test_a_budget_ends_at_the_nearest_round(budget: float) -> None:
    found = events(STRATEGY, settings(steps=None, budget=budget, modelled=MODELLED))
    times = [report.elapsed for report in rounds(found)]
    cycle = times[1] - times[0]
    assert end(found).step == 4 * len(times)
    assert abs(times[-1] - budget) <= cycle / 2 + 1e-9


def test_the_learning_rate_falls_with_the_budget() -> None:
    rates: list[float] = []

    def watch(optimizer: Optimizer, args: object, kwargs: object) -> None:
        rates.append(optimizer.param_groups[0]["lr"])

    chosen = settings(steps=None, budget=2.0, lr=0.1, modelled=partial(VirtualClock, 0.1))
    run = Run(Digits(train_size=200), STRATEGY, chosen, torch.device("cpu"), None)
    run.engine.replicas.optimizers[0][0].register_step_pre_hook(watch)
    while not run.is_over():
        run.step()
    steps = run.engine.step
    expected = [0.05 * (1 + math.cos(math.pi * min(1.0, 0.1 * s / 2.0))) for s in range(steps)]
    assert rates == pytest.approx(expected)


def test_training_ends_when_the_error_is_reached() -> None:
    task = Digits(train_size=400)
    chosen = settings(steps=400, until_error=0.2, evaluate_every=2, batch_size=16)
    found = events(STRATEGY, chosen, task=task)
    measured = [event for event in found if isinstance(event, Evaluated)]
    assert [event.round for event in measured] == list(range(2, 2 * len(measured) + 1, 2))
    assert measured[-1].error <= 0.2
    assert all(event.error > 0.2 for event in measured[:-1])
    assert end(found).step == measured[-1].step < 400
    assert end(found).error == measured[-1].error


def test_measuring_changes_nothing() -> None:
    plain = end(events(STRATEGY, settings()))
    measured = end(events(STRATEGY, settings(evaluate_every=1)))
    assert plain.error == measured.error
    assert same_model(plain, measured)


def test_steps_counted_together_end_together() -> None:
    make = partial(VirtualClock, 0.1, speeds=[1.0, 1.0, 1.0, 0.25])
    chosen = settings(steps=24, schedule=grawa.SharedCount(4), modelled=make)
    found = events(STRATEGY, chosen)
    made = sum(sum(report.steps_made.tolist()) for report in rounds(found))
    assert 96 <= made <= 99
    assert end(found).step > 24
