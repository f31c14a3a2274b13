"""Glyphs: classes that can be told apart, and a gap between training and test."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD

from grawa.errors import UserError
from grawa.lab.tasks import Data, Glyphs


def test_there_are_as_many_signals_as_asked_and_classes_come_equally_often() -> None:
    data = Glyphs(train_size=130, length=40).data(0)
    assert [part.shape for part in data] == [(130, 40), (130,), (4000, 40), (4000,)]
    assert torch.bincount(data.train_targets).tolist() == [13] * 10
    assert torch.bincount(data.test_targets).tolist() == [400] * 10


def test_another_seed_has_other_templates_and_signals() -> None:
    first, second = (Glyphs().data(seed) for seed in (0, 1))
    assert not torch.allclose(first.test_inputs, second.test_inputs)


def test_training_and_test_signals_differ() -> None:
    data = Glyphs(train_size=100, noise=0.0).data(0)
    apart = torch.cdist(data.train_inputs, data.test_inputs)
    assert float(apart.min()) > 0.0


def test_noise_is_as_large_as_asked_and_all_else_equal() -> None:
    clean, noisy = (Glyphs(noise=noise).data(4) for noise in (0.0, 0.7))
    added = noisy.test_inputs - clean.test_inputs
    assert float(added.std()) == pytest.approx(0.7, rel=0.01)
    assert float(added.mean()) == pytest.approx(0.0, abs=0.01)


def test_signals_are_smooth_without_noise() -> None:
    signals = Glyphs(noise=0.0, length=200).data(0).test_inputs
    # The narrowest bump is 0.04 wide where 200 samples are 1 long, stretched by up to a quarter.
    bends = signals.diff(n=2, dim=1).abs().amax(dim=1)
    height = signals.abs().amax(dim=1)
    assert bool((bends < 0.1 * height.clamp(min=0.5)).all())


@pytest.mark.parametrize(
    ("options", "got"),
    [
        ({"train_size": 0}, "0, 48 and 0.5"),
        ({"length": 3}, "1000, 3 and 0.5"),
        ({"noise": float("nan")}, "1000, 48 and nan"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], got: str) -> None:
    with pytest.raises(UserError, match=f"train_size must be at least 1, length .* got {got}"):
        Glyphs(**options)


def nearest_mean(data: Data) -> float:
    """The error of the simplest of classifiers."""
    means = torch.stack([data.train_inputs[data.train_targets == c].mean(dim=0) for c in range(10)])
    found = torch.cdist(data.test_inputs, means).argmin(dim=1)
    return float((found != data.test_targets).double().mean())


def learnt(task: Glyphs, seed: int) -> tuple[float, float]:
    """The errors on training and test signals after a short training."""
    data, model = task.data(seed), task.model(seed)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    random = torch.Generator().manual_seed(seed)
    for _ in range(600):
        batch: Tensor = torch.randint(len(data.train_inputs), (64,), generator=random)
        optimizer.zero_grad()
        task.loss(model, data.train_inputs[batch], data.train_targets[batch]).backward()
        optimizer.step()
    swapped = data._replace(test_inputs=data.train_inputs, test_targets=data.train_targets)
    return task.measure(model, swapped), task.measure(model, data)


@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_learnt_by_heart_does_not_carry_over(seed: int) -> None:
    task = Glyphs()
    train, test = learnt(task, seed)
    assert train < 0.01
    assert 0.05 < test < 0.25
    assert test < nearest_mean(task.data(seed)) < 0.85
