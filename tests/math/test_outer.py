"""Outer steps, against arithmetic and against torch's own SGD."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from grawa.math.leaves import Leaves
from grawa.math.outer import heavy_ball_, nesterov_


def leaves(values: Tensor) -> Leaves:
    return Leaves.copy_of({"x": values.to(torch.float64).unsqueeze(0)})


def test_two_steps_by_hand() -> None:
    center, momentum = leaves(torch.tensor([10.0])), leaves(torch.tensor([0.0]))
    nesterov_(center, momentum, leaves(torch.tensor([8.0])), lr=0.5, momentum_decay=0.5)
    # d = 2, m = 2: 10 - 0.5 (2 + 0.5 * 2)
    assert (center["x"].item(), momentum["x"].item()) == (8.5, 2.0)
    nesterov_(center, momentum, leaves(torch.tensor([4.5])), lr=0.5, momentum_decay=0.5)
    # d = 4, m = 1 + 4: 8.5 - 0.5 (4 + 0.5 * 5)
    assert (center["x"].item(), momentum["x"].item()) == (5.25, 5.0)


def test_a_learning_rate_of_one_without_momentum_lands_on_the_mean() -> None:
    center, mean = torch.randn(100), torch.randn(100)
    stepped = leaves(center)
    nesterov_(stepped, leaves(torch.zeros(100)), leaves(mean), lr=1.0, momentum_decay=0.0)
    torch.testing.assert_close(stepped["x"], mean.to(torch.float64), rtol=0.0, atol=1e-15)


def test_a_learning_rate_of_zero_stays_but_gathers_momentum() -> None:
    center, momentum = leaves(torch.tensor([1.0])), leaves(torch.tensor([0.0]))
    nesterov_(center, momentum, leaves(torch.tensor([0.25])), lr=0.0, momentum_decay=0.9)
    assert (center["x"].item(), momentum["x"].item()) == (1.0, 0.75)


@pytest.mark.parametrize(("lr", "decay"), [(0.7, 0.9), (1.0, 0.0), (0.1, 0.5)])
def test_it_is_torchs_nesterov_sgd_on_the_pseudo_gradient(lr: float, decay: float) -> None:
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(5, dtype=torch.float64, generator=generator)
    parameter = torch.nn.Parameter(start.clone())
    sgd = torch.optim.SGD([parameter], lr=lr, momentum=decay, nesterov=decay > 0)
    center, momentum = leaves(start), leaves(torch.zeros(5))
    for _ in range(6):
        mean = torch.randn(5, dtype=torch.float64, generator=generator)
        parameter.grad = parameter.detach() - mean
        sgd.step()
        nesterov_(center, momentum, leaves(mean), lr=lr, momentum_decay=decay)
    torch.testing.assert_close(center["x"], parameter.detach(), rtol=0.0, atol=1e-14)


@pytest.mark.parametrize("step", [nesterov_, heavy_ball_])
def test_steps_that_16_bits_do_not_resolve_add_up(step: Callable[..., None]) -> None:
    # An outer step of 0.001 is a quarter of what bfloat16 resolves at 1.
    seen = Leaves.copy_of({"x": torch.ones(1, 1, dtype=torch.bfloat16)})
    center = seen.widened()
    momentum = center.zeros_like()
    for _ in range(10):
        moved = seen.clone()
        moved["x"] += 0.0078125
        step(center, momentum, moved, lr=0.128, momentum_decay=0.0, began=seen)
        seen["x"].copy_(center["x"])
    assert center["x"].dtype == torch.float32
    assert center["x"].item() == pytest.approx(1.01, abs=1e-6)


def test_two_heavy_ball_steps_by_hand() -> None:
    center, momentum = leaves(torch.tensor([10.0])), leaves(torch.tensor([0.0]))
    heavy_ball_(center, momentum, leaves(torch.tensor([8.0])), lr=0.5, momentum_decay=0.5)
    assert (center["x"].item(), momentum["x"].item()) == (9.0, 2.0)
    heavy_ball_(center, momentum, leaves(torch.tensor([4.5])), lr=0.5, momentum_decay=0.5)
    # d = 4.5, m = 1 + 4.5: 9 - 0.5 * 5.5
    assert (center["x"].item(), momentum["x"].item()) == (6.25, 5.5)


def test_the_heavy_ball_is_torchs_sgd_on_the_pseudo_gradient() -> None:
    parameter = torch.randn(20, dtype=torch.float64)
    center, momentum = leaves(parameter), leaves(torch.zeros(20))
    optimizer = torch.optim.SGD([parameter], lr=0.3, momentum=0.8)
    for _ in range(4):
        mean = torch.randn(20, dtype=torch.float64)
        parameter.grad = parameter - mean
        optimizer.step()
        heavy_ball_(center, momentum, leaves(mean), lr=0.3, momentum_decay=0.8)
    torch.testing.assert_close(center["x"], parameter, rtol=0.0, atol=1e-14)
