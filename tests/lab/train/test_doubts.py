"""What has learnt nothing is told from what has learnt something."""

from typing import Any

import pytest
import torch
from torch import nn

from grawa.lab.tasks import Data, Digits, Task
from grawa.lab.tasks.quadratic import Quadratic
from grawa.lab.tasks.text import Text
from grawa.lab.train.doubts import last_sound_round, measured
from grawa.modes import evaluating
from grawa.rounds.attendance import ABSENT

DIGITS, QUADRATIC = Digits(train_size=200), Quadratic()
TEXT = Text(train_bytes=8000, test_bytes=4000, context=32, architecture="transformer_small")


def doubts(task: Task, data: Data, model: nn.Module) -> tuple[str, ...]:
    with evaluating(model):
        return measured(task, data, model, seed=0).doubts


def trained(task: Task, data: Data, steps: int, lr: float) -> nn.Module:
    model = task.model(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        task.loss(model, data.train_inputs[:200], data.train_targets[:200]).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize(("task", "lr"), [(DIGITS, 0.01), (QUADRATIC, 0.01), (TEXT, 0.01)])
def test_a_model_that_has_learnt_something_raises_no_doubt(task: Task, lr: float) -> None:
    data = task.data(0)
    assert doubts(task, data, trained(task, data, 30, lr)) == ()


@pytest.mark.parametrize(
    ("task", "factor"),
    [(task, factor) for task in (DIGITS, QUADRATIC, TEXT) for factor in (1.0, 1e3)]
    + [(DIGITS, 0.0), (TEXT, 0.0)],  # of the quadratic it is the minimiser
)
def test_a_dead_an_untrained_and_a_wild_model_do(task: Task, factor: float) -> None:
    model = task.model(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)
    (why,) = doubts(task, task.data(0), model)
    assert "lower the learning rate" in why


def test_chance_is_the_best_guess_that_does_not_look_at_the_inputs() -> None:
    targets = torch.tensor([0, 0, 0, 1])
    chance = DIGITS.chance(Data(targets, targets, targets, targets))
    assert chance.value == pytest.approx(0.25)
    assert chance.limit == pytest.approx(0.25 - 2 * (0.25 * 0.75 / 4) ** 0.5)
    windows = torch.tensor([[97, 98]], dtype=torch.uint8).repeat(2000, 1)
    assert TEXT.chance(Data(windows, windows, windows, windows)).value == pytest.approx(
        1.0, abs=0.1
    )


def test_a_checkpoint_is_sound_if_the_round_after_it_was_too() -> None:
    good: dict[str, Any] = {"kind": "round", "losses": [1.0, 1.0], "left_out": {}}
    bad: dict[str, Any] = {"kind": "round", "losses": [1.0, None], "left_out": {}}
    absent = {**bad, "left_out": {"1": ABSENT}}
    events = [{"kind": "started"}, {**good, "round": 2}, {**good, "round": 3}, {**bad, "round": 4}]
    assert last_sound_round(events) == 2
    assert last_sound_round([*events[:3], {**absent, "round": 4}, {**bad, "round": 5}]) == 3
    assert last_sound_round(events[:1]) == last_sound_round([events[3]]) == 0
