"""The wide residual network WRN-28-10: 36.5 million parameters."""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import relu

from grawa.lab.tasks.models.layers import Preactivated, conv1x1, conv3x3, he_initialised

_BLOCKS = 4  # for each of three resolutions: (28 - 4) / 6
_FACTOR = 10
_WIDTHS = (16 * _FACTOR, 32 * _FACTOR, 64 * _FACTOR)


class WideResNet(Preactivated):
    """28 layers, ten times as wide as a residual network for CIFAR.

    Args:
        shape: of an image: (channels, height, width).
        classes: number of outputs.

    Source: Zagoruyko and Komodakis (2016), "Wide Residual Networks", table 1; without dropout.
    """

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        widths = [16, *(width for width in _WIDTHS for _ in range(_BLOCKS))]
        strides = [2 if i in (_BLOCKS, 2 * _BLOCKS) else 1 for i in range(3 * _BLOCKS)]
        stem = conv3x3(shape[0], 16)
        blocks = nn.Sequential(
            *(_Block(a, b, s) for (a, b), s in zip(pairwise(widths), strides, strict=True))
        )
        super().__init__(stem, blocks, _WIDTHS[-1], classes)


class _Block(nn.Module):
    """Normalisation before each of two convolutions; a projection where the width changes."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(width_in), conv3x3(width_in, width, stride)
        self.norm2, self.conv2 = nn.BatchNorm2d(width), conv3x3(width, width)
        self.shortcut = conv1x1(width_in, width, stride) if width != width_in else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, width_in, H, W) -> (B, width, H / stride, W / stride)."""
        first = relu(self.norm1(x))
        inner: Tensor = self.conv2(relu(self.norm2(self.conv1(first))))
        return inner + (x if self.shortcut is None else self.shortcut(first))


def wide_resnet28_10(shape: tuple[int, ...], classes: int) -> nn.Module:
    """28 layers, widened by 10: 36.5 million parameters."""
    return he_initialised(WideResNet(shape, classes))
