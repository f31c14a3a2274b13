"""The loss as a function of position, and what can be told of it without second derivatives."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from grawa.errors import UserError
from grawa.flatness import Surface, gradient_norm, measure, sam_sharpness
from tests.flatness.surfaces import bowl, cnn, mlp, random

SURFACES: dict[str, Callable[[], Surface]] = {"mlp": mlp, "cnn": cnn}
every_surface = pytest.mark.parametrize("make", SURFACES.values(), ids=SURFACES)


@every_surface
def test_batches_do_not_change_loss_and_gradient(make: Callable[[], Surface]) -> None:
    surface = make()
    whole = replace(surface, batch_size=1000)
    assert surface.value() == pytest.approx(whole.value(), rel=1e-12)
    torch.testing.assert_close(surface.gradient(), whole.gradient())


@every_surface
def test_the_gradient_is_that_of_finite_differences(make: Callable[[], Surface]) -> None:
    surface = make()
    here, step = surface.position(), 1e-7
    direction = random(len(here), seed=3)
    rise = surface.at(here + step * direction) - surface.at(here - step * direction)
    expected = rise / (2.0 * step)
    assert float(surface.gradient() @ direction) == pytest.approx(expected, rel=1e-5)


@every_surface
def test_looking_elsewhere_leaves_the_model_as_it_was(make: Callable[[], Surface]) -> None:
    surface = replace(make(), recalibrate=True)
    state = {key: value.clone() for key, value in surface.model.state_dict().items()}
    here = surface.value()
    assert surface.at(surface.position() + 1.0) != here
    sam_sharpness(surface, 0.1, steps=3)
    assert surface.value() == here
    for key, value in surface.model.state_dict().items():
        assert torch.equal(value, state[key])
    assert all(p.grad is None for p in surface.parameters)


def test_recalibrated_statistics_undo_a_layers_scale() -> None:
    plain = cnn()
    calibrated = replace(plain, recalibrate=True)
    here = plain.position()
    with calibrated.moved(here):
        reference = calibrated.value()
    scaled = here.clone()
    scaled[:30] *= 100.0  # the convolution, which BatchNorm follows
    assert calibrated.at(scaled) == pytest.approx(reference, rel=1e-3)
    assert abs(plain.at(scaled) - plain.value()) > 0.1 * plain.value()


def test_a_bowls_gradient_norm_is_exact() -> None:
    matrix = torch.diag(torch.tensor([3.0, 4.0], dtype=torch.float64))
    surface = bowl(matrix, torch.ones(2, dtype=torch.float64))
    assert gradient_norm(surface) == pytest.approx(5.0)


def test_noise_that_sums_to_zero_leaves_loss_and_gradient_alone() -> None:
    matrix = torch.diag(torch.tensor([3.0, 4.0], dtype=torch.float64))
    noise = random(6, 2)
    surface = bowl(matrix, torch.ones(2, dtype=torch.float64), noise - noise.mean(dim=0))
    assert surface.value() == pytest.approx(3.5)
    assert gradient_norm(surface) == pytest.approx(5.0)


@every_surface
@pytest.mark.parametrize("radius", [0.01, 0.3])
def test_sharpness_is_the_rise_along_the_gradient(
    make: Callable[[], Surface], radius: float
) -> None:
    surface = make()
    here, gradient = surface.position(), surface.gradient()
    expected = surface.at(here + radius * gradient / gradient.norm()) - surface.value()
    assert sam_sharpness(surface, radius) == pytest.approx(expected, rel=1e-9)


def test_a_bowls_sharpness_is_exact() -> None:
    # x = (1, 0): the gradient is (3, 0), and 3/2 (1.5^2 - 1) = 1.875.
    matrix = torch.diag(torch.tensor([3.0, 4.0], dtype=torch.float64))
    surface = bowl(matrix, torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert sam_sharpness(surface, 0.5) == pytest.approx(1.875)
    assert sam_sharpness(surface, 0.5, steps=10) == pytest.approx(1.875)


def test_more_steps_find_the_top_of_the_ball() -> None:
    # At (0.01, 0.1) the flat direction's gradient is larger, but the steep one rises further.
    matrix = torch.diag(torch.tensor([10.0, 2.0], dtype=torch.float64))
    surface = bowl(matrix, torch.tensor([0.01, 0.1], dtype=torch.float64))
    angles = torch.linspace(0.0, 2.0 * torch.pi, 20001, dtype=torch.float64)
    x, y = 0.01 + angles.cos(), 0.1 + angles.sin()
    highest = float((5.0 * x**2 + y**2).max()) - surface.value()
    one, many = (sam_sharpness(surface, 1.0, steps) for steps in (1, 50))
    assert one < 0.6 * highest
    assert many == pytest.approx(highest, rel=1e-2)
    assert many <= highest + 1e-12


def test_where_there_is_no_gradient_there_is_no_way_up() -> None:
    matrix = torch.eye(2, dtype=torch.float64)
    assert not sam_sharpness(bowl(matrix, torch.zeros(2, dtype=torch.float64)), 1.0)


@pytest.mark.parametrize(("radius", "steps"), [(0.0, 1), (float("inf"), 1), (-1.0, 1), (1.0, 0)])
def test_a_radius_or_a_number_of_steps_out_of_range_is_refused(radius: float, steps: int) -> None:
    with pytest.raises(UserError, match="positive radius and at least one step"):
        sam_sharpness(mlp(), radius, steps)


def test_a_surface_needs_samples_and_parameters() -> None:
    surface = mlp()
    with pytest.raises(UserError, match="got 0 inputs, 0 targets"):
        replace(surface, inputs=surface.inputs[:0], targets=surface.targets[:0])
    with pytest.raises(UserError, match="got 40 inputs, 39 targets"):
        replace(surface, targets=surface.targets[1:])
    with pytest.raises(UserError, match="no trained parameters"):
        replace(surface, model=nn.ReLU())


def test_without_eigenvalues_curvlinops_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "curvlinops", None)
    found = measure(mlp(), eigenvalues=0, radii=(0.1,))
    assert (found.eigenvalues, found.trace, found.trace_over_loss) == (None, None, None)
    assert found.as_json()["sharpness"]["0.1"] == found.sharpness[0.1] > 0.0
    assert found.gradient_norm > 0.0


def test_a_loss_that_is_not_a_number_is_refused() -> None:
    surface = mlp()
    with torch.no_grad():
        surface.parameters[0][0, 0] = torch.nan
    with pytest.raises(UserError, match="the loss is nan"):
        measure(surface)
