"""Glyphs: generated one-dimensional signals of ten classes, with few training samples."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from grawa.errors import UserError
from grawa.lab.tasks.classification import Classification
from grawa.lab.tasks.models.registry import build, check_model
from grawa.lab.tasks.task import Data, written
from grawa.seeding import generator, seeded

_TEST_SIZE = 4000

_MOST_NUMBERS = 10**8
"""In all training signals; they are made in some ten times as much memory."""
_BUMPS = 5
"""Number of bumps whose sum is a class's template."""

_BUMP_WIDTHS = (0.04, 0.10)
"""Smallest and largest width, as fractions of a signal's length."""

_SHIFT, _STRETCH, _WARP, _SCALE = 0.2, 0.25, 0.06, 0.3
"""Largest changes of a signal's position, length, time axis and height."""


@dataclass(frozen=True, kw_only=True)
class Glyphs(Classification):
    """Recognise which of ten curves a signal is, after shift, stretch, warp, scaling and noise.

        signal(t) = scale * template(shift + stretch * t + warp * sin(2 pi (t + phase))) + noise

    A template is the sum of five smooth bumps at random positions. Templates and signals are drawn
    anew for each seed; there are few training signals, so that overfitting shows.

    Args:
        train_size: number of training signals; there are 4,000 test signals.
        length: number of samples of a signal.
        noise: standard deviation of the noise of each sample; templates vary by about 1.
        architecture: "mlp" (length-64-10, with a ReLU) or "cnn"; `model=` on the command line.
    """

    num_classes: ClassVar[int] = 10
    architectures: ClassVar[tuple[str, ...]] = ("mlp", "cnn")

    train_size: int = 1000
    length: int = 48
    noise: float = 0.5
    architecture: str = field(default="mlp", metadata=written("model"))

    def __post_init__(self) -> None:
        check_model(self.architecture, self.architectures)
        if self.train_size * self.length > _MOST_NUMBERS:
            raise UserError(
                f"train_size times length must be at most {_MOST_NUMBERS:,}, got "
                f"{self.train_size:,} times {self.length:,}"
            )
        if self.train_size < 1 or self.length < 4 or not self.noise >= 0.0:
            raise UserError(
                "train_size must be at least 1, length at least 4 and noise not negative, got "
                f"{self.train_size}, {self.length} and {self.noise}"
            )

    def data(self, seed: int) -> Data:
        """Signals as rows, (n, length), and their classes, which are equally frequent."""
        bumps = _templates(generator(seed, "templates"))
        parts: list[Tensor] = []
        for purpose, size in (("train", self.train_size), ("test", _TEST_SIZE)):
            random = generator(seed, "signals", purpose)
            targets = torch.arange(size) % self.num_classes
            signals = _signals(bumps[targets], self.length, random)
            noise = torch.randn(signals.shape, generator=random)
            parts += [signals + self.noise * noise, targets]
        return Data(*parts)

    def model(self, seed: int) -> nn.Module:
        """The model named by `architecture`."""
        with seeded(seed, "model"):
            return build(self.architecture, (1, self.length), self.num_classes)


def _templates(random: torch.Generator) -> Tensor:
    """Height, position and width of each bump, (classes, bumps, 3)."""
    shape = (Glyphs.num_classes, _BUMPS)
    heights = torch.randn(shape, generator=random)
    places = 0.1 + 0.8 * torch.rand(shape, generator=random)
    least, largest = _BUMP_WIDTHS
    widths = least + (largest - least) * torch.rand(shape, generator=random)
    return torch.stack([heights, places, widths], dim=-1)


def _signals(bumps: Tensor, length: int, random: torch.Generator) -> Tensor:
    """A signal for each row of bumps, (n, bumps, 3), without noise: (n, length)."""
    shift, stretch, warp, scale, phase = 2.0 * torch.rand(5, len(bumps), 1, generator=random) - 1.0
    time = torch.linspace(0.0, 1.0, length)
    wave = (2.0 * math.pi * (time + phase)).sin()
    moved = time + _SHIFT * shift + _STRETCH * stretch * (time - 0.5) + _WARP * warp * wave
    heights, places, widths = bumps.unsqueeze(-1).unbind(dim=2)  # each (n, bumps, 1)
    values = heights * (-0.5 * ((moved.unsqueeze(1) - places) / widths).square()).exp()
    signals: Tensor = (1.0 + _SCALE * scale) * values.sum(dim=1)
    return signals
