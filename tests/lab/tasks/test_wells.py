"""The landscape has minima where it is said to have them, some flat and some sharp."""

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import hessian

from grawa.errors import UserError
from grawa.lab.tasks import Wells
from grawa.lab.tasks.wells import FLAT, SHARP, landscape


def bottom(place: tuple[float, float]) -> Tensor:
    """The minimum that Newton's method finds from a place."""
    point = torch.tensor(place, dtype=torch.float64)
    for _ in range(20):
        leaf = point.clone().requires_grad_()
        gradient = torch.autograd.grad(landscape(leaf), leaf)[0]
        point = point - torch.linalg.solve(hessian(landscape, point), gradient)
    return point


def curvatures(point: Tensor) -> Tensor:
    values: Tensor = torch.linalg.eigvalsh(hessian(landscape, point))
    return values


@pytest.mark.parametrize("place", [*FLAT, *SHARP], ids=str)
def test_there_is_a_minimum_at_each_place(place: tuple[float, float]) -> None:
    found = bottom(place)
    assert float((found - torch.tensor(place).double()).norm()) < 0.1
    assert bool((curvatures(found) > 0.0).all())


def test_sharp_minima_are_several_times_as_sharp_as_flat_ones_and_as_deep() -> None:
    flat, sharp = ([bottom(place) for place in places] for places in (FLAT, SHARP))
    sharpest_flat = max(float(curvatures(point).max()) for point in flat)
    flattest_sharp = min(float(curvatures(point).min()) for point in sharp)
    assert flattest_sharp > 5.0 * sharpest_flat
    depths = torch.stack([landscape(point) for point in (*flat, *sharp)])
    assert float(depths.max() - depths.min()) < 0.15
    assert float(depths.max()) < 0.3


def test_the_landscape_is_positive_everywhere_and_rises_outward() -> None:
    axis = torch.linspace(-6.0, 6.0, 241)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1)
    heights = landscape(grid)
    assert heights.shape == (241, 241)
    assert float(heights.min()) > 0.1
    assert float(heights[0].min()) > float(landscape(torch.tensor([4.5, 0.0])))


def test_the_loss_is_the_landscape_and_noise_that_sums_to_zero() -> None:
    task = Wells(noise=2.0)
    data, model = task.data(0), task.model(0)
    position = next(model.parameters()).detach()
    assert float(position.norm()) == pytest.approx(4.5)
    height = float(landscape(position))
    assert task.measure(model, data) == pytest.approx(height)
    whole = task.loss(model, data.train_inputs, data.train_targets)
    assert whole.item() == pytest.approx(height, abs=1e-5)
    deviations = data.train_inputs.std(dim=0)
    torch.testing.assert_close(deviations, torch.full((2,), 2.0), rtol=0.05, atol=0.0)


def test_a_sample_adds_its_noise_to_the_gradient() -> None:
    task = Wells()
    data, model = task.data(0), task.model(0)
    position = next(model.parameters())
    both = (data.train_inputs[:1], 0.0 * data.train_inputs[:1])
    with_noise, without = (
        torch.autograd.grad(task.loss(model, noise, noise), position)[0] for noise in both
    )
    torch.testing.assert_close(with_noise - without, data.train_inputs[0])


def test_negative_noise_is_refused() -> None:
    with pytest.raises(UserError, match=r"noise must not be negative, got -1\.0"):
        Wells(noise=-1.0)
