"""A small convolutional network, for images and for signals."""

from math import prod

from torch import Tensor, nn

_WIDTHS = (16, 32)


class SmallCNN(nn.Module):
    """Two convolutions of width 16 and 32, each halving the size, and a linear layer.

    Without normalisation, so it has no buffers.

    Args:
        shape: of a sample: (channels, height, width), or (channels, length) for a signal. Samples
            may also be flattened.
        classes: number of outputs.

    >>> sum(p.numel() for p in SmallCNN((1, 8, 8), 10).parameters())
    6090
    """

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self._shape = shape
        first, second = _WIDTHS
        self.features = nn.Sequential(
            *_halving(shape, shape[0], first), *_halving(shape, first, second)
        )
        self.head = nn.Linear(second * prod(size // 4 for size in shape[1:]), classes)

    def forward(self, samples: Tensor) -> Tensor:
        """(B, channels, ...) or (B, channels * ...) -> (B, classes)."""
        inner = self.features(samples.reshape(len(samples), *self._shape))
        logits: Tensor = self.head(inner.flatten(1))
        return logits


def _halving(shape: tuple[int, ...], width_in: int, width: int) -> list[nn.Module]:
    if len(shape) == 2:
        return [nn.Conv1d(width_in, width, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2)]
    return [nn.Conv2d(width_in, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
