"""A loss in two dimensions with flat and sharp minima, for pictures."""

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from grawa.errors import UserError
from grawa.lab.tasks.task import Data, Task
from grawa.seeding import generator

_SAMPLES = 4096
_START_RADIUS = 4.5
_BOWL = 0.01

FLAT = ((2.5, 0.0), (-1.25, 2.165), (-1.25, -2.165))
"""Positions of the flat minima."""

SHARP = ((1.25, 2.165), (-2.5, 0.0), (1.25, -2.165), (0.0, 0.0))
"""Positions of the sharp minima."""

_DEPTH = 0.8
_FLAT_WIDTH, _SHARP_WIDTH = 0.9, 0.3


class Well(NamedTuple):
    """A well of the landscape.

    Attributes:
        kind: flat or sharp.
        place: position of its minimum, up to about 0.1.
        width: the distance from the minimum within which the well by itself is convex.
    """

    kind: Literal["flat", "sharp"]
    place: tuple[float, float]
    width: float


WELLS = (
    *(Well("flat", place, _FLAT_WIDTH) for place in FLAT),
    *(Well("sharp", place, _SHARP_WIDTH) for place in SHARP),
)
"""All seven wells."""


def landscape(points: Tensor) -> Tensor:
    """The loss without noise: a shallow bowl with seven wells, about equally deep.

        f(x) = 1 + bowl |x|^2 - depth sum_w exp(-|x - place_w|^2 / (2 width_w^2))

    Args:
        points: (..., 2).

    Returns:
        (...).
    """
    places = torch.tensor([well.place for well in WELLS]).to(points)
    widths = torch.tensor([well.width for well in WELLS]).to(points)
    distances = (points.unsqueeze(-2) - places).square().sum(dim=-1)  # (..., wells)
    wells = (-0.5 * distances / widths.square()).exp().sum(dim=-1)
    return 1.0 + _BOWL * points.square().sum(dim=-1) - _DEPTH * wells


def nearest_well(point: Tensor) -> tuple[Well, float]:
    """The well whose minimum is closest to a point.

    Args:
        point: (2,).

    Returns:
        The well, and the distance to its minimum.
    """
    places = torch.tensor([well.place for well in WELLS]).to(point)
    distances = (point - places).square().sum(dim=-1).sqrt()
    index = int(distances.argmin())
    return WELLS[index], float(distances[index])


class Walker(nn.Module):
    """A model whose only parameter is a point in the plane.

    Args:
        start: the initial point, (2,).
    """

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.position = nn.Parameter(start)

    def forward(self, noise: Tensor) -> Tensor:
        """The loss on samples of noise, (B, 2) -> (B,): f(x) + noise . x."""
        return landscape(self.position) + noise @ self.position


@dataclass(frozen=True, kw_only=True)
class Wells(Task):
    """Minimise a loss in the plane whose flat and sharp minima are about equally deep.

    Each sample adds noise to the gradient; over all samples the noise sums to zero.
    `grawa.lab.tasks.wells.landscape` is the loss without noise.

    Args:
        noise: standard deviation of each gradient's noise, per dimension.
    """

    metric: ClassVar[str] = "loss"

    noise: float = 1.0

    def __post_init__(self) -> None:
        if not self.noise >= 0.0:
            raise UserError(f"noise must not be negative, got {self.noise}")

    def data(self, seed: int) -> Data:
        """The noise of 4,096 samples; there are no targets, and nothing is held out."""
        noise = torch.randn(_SAMPLES, 2, generator=generator(seed, "noise")) * self.noise
        noise -= noise.mean(dim=0)
        none = torch.zeros(_SAMPLES)
        return Data(noise, none, noise, none)

    def model(self, seed: int) -> nn.Module:
        """A point at the edge of the landscape, in a random direction from the middle."""
        direction = torch.randn(2, generator=generator(seed, "model"))
        return Walker(_START_RADIUS * direction / direction.norm())

    def loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """The mean over the samples."""
        return torch.mean(model(inputs))

    def measure(self, model: nn.Module, data: Data) -> float:
        """f(x), without noise."""
        with torch.no_grad():
            return float(model(torch.zeros_like(data.test_inputs[:1]))[0])
