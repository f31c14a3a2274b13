"""The pyramidal residual network of 110 layers, widened by 270: 28.5 million parameters."""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pad, relu

from grawa.lab.tasks.models.layers import Preactivated, conv3x3, he_initialised

_BLOCKS = 18  # for each of three resolutions: (110 - 2) / 6
_ALPHA = 270
_FIRST = 16


class PyramidNet(Preactivated):
    """A residual network whose width grows by 5 with every block, from 16 to 286.

    Args:
        shape: of an image: (channels, height, width).
        classes: number of outputs.

    Source: Han, Kim and Kim (2017), "Deep Pyramidal Residual Networks", sections 2.1 and 3, with
    basic blocks, additive widening and zero-padded shortcuts.
    """

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        count = 3 * _BLOCKS
        widths = [_FIRST + _ALPHA * i // count for i in range(count + 1)]
        strides = [2 if i in (_BLOCKS, 2 * _BLOCKS) else 1 for i in range(count)]
        stem = nn.Sequential(conv3x3(shape[0], _FIRST), nn.BatchNorm2d(_FIRST))
        blocks = nn.Sequential(
            *(_Block(a, b, s) for (a, b), s in zip(pairwise(widths), strides, strict=True))
        )
        super().__init__(stem, blocks, widths[-1], classes)


class _Block(nn.Module):
    """Two convolutions between three normalisations, one ReLU, and a widened shortcut."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self._widened, self._stride = width - width_in, stride
        self.norm1, self.conv1 = nn.BatchNorm2d(width_in), conv3x3(width_in, width, stride)
        self.norm2, self.conv2 = nn.BatchNorm2d(width), conv3x3(width, width)
        self.norm3 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width_in, H, W) -> (B, width, H / stride, W / stride)."""
        inner: Tensor = self.conv1(self.norm1(x))
        inner = self.norm3(self.conv2(relu(self.norm2(inner))))
        shortcut = avg_pool2d(x, 2) if self._stride == 2 else x
        return inner + pad(shortcut, (0, 0, 0, 0, 0, self._widened))


def pyramidnet110_270(shape: tuple[int, ...], classes: int) -> nn.Module:
    """110 layers, widened by 270: 28.5 million parameters."""
    return he_initialised(PyramidNet(shape, classes))
