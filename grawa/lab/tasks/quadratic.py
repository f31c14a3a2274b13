"""A quadratic bowl with noisy gradients, whose minimiser is known."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from grawa.errors import UserError
from grawa.lab.tasks.task import Data, Task
from grawa.seeding import generator

_SAMPLES = 4096

_MOST_DIMENSIONS = 100_000
"""With which the generated samples take 1.6 GB."""


class Point(nn.Module):
    """A model whose only parameter is a point, which training moves to the minimum.

    Args:
        start: the initial point, (D,).
    """

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.position = nn.Parameter(start)

    def forward(self, noise: Tensor) -> Tensor:
        """The loss on samples of noise, (B, D) -> (B,): f(x) + noise . x."""
        curvature = torch.linspace(1.0, 0.0, len(self.position) + 1)[:-1].to(self.position)
        return 0.5 * (curvature * self.position.square()).sum() + noise @ self.position


@dataclass(frozen=True, kw_only=True)
class Quadratic(Task):
    """A convex quadratic, f(x) = 1/2 sum_d c_d x_d^2, whose minimiser is zero.

    Each sample adds noise to the gradient; over all samples the noise sums to zero.

    Args:
        dimensions: D; the curvatures fall linearly from 1 to 1/D.
        noise: standard deviation of each gradient's noise, per dimension.
    """

    metric: ClassVar[str] = "excess loss"

    dimensions: int = 20
    noise: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.dimensions <= _MOST_DIMENSIONS or not self.noise >= 0.0:
            raise UserError(
                f"dimensions must be at least 1 and at most {_MOST_DIMENSIONS}, noise not "
                "negative, got "
                f"{self.dimensions} and {self.noise}"
            )

    def data(self, seed: int) -> Data:
        """The noise of 4,096 samples; there are no targets, and nothing is held out."""
        shape = (_SAMPLES, self.dimensions)
        noise = torch.randn(shape, generator=generator(seed, "noise")) * self.noise
        noise -= noise.mean(dim=0)
        none = torch.zeros(_SAMPLES)
        return Data(noise, none, noise, none)

    def model(self, seed: int) -> nn.Module:
        """A random point, at a distance of about 1 from the minimum in each dimension."""
        return Point(torch.randn(self.dimensions, generator=generator(seed, "model")))

    def loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """The mean over the samples."""
        return torch.mean(model(inputs))

    def measure(self, model: nn.Module, data: Data) -> float:
        """f(x), without noise; its minimum is zero."""
        with torch.no_grad():
            return float(model(torch.zeros_like(data.test_inputs[:1]))[0])
