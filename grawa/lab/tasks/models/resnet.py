"""Residual networks for CIFAR: 0.27 million parameters with 20 layers."""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import pad, relu

from grawa.lab.tasks.models.layers import conv3x3, he_initialised

_WIDTHS = (16, 32, 64)


class CifarResNet(nn.Module):
    """A residual network of 6 n + 2 layers, with shortcuts that have no parameters.

    Args:
        shape: of an image: (channels, height, width).
        classes: number of outputs.
        blocks: n, for each of three resolutions.

    Source: He et al. (2016), "Deep Residual Learning for Image Recognition", section 4.2, option A.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, blocks: int) -> None:
        super().__init__()
        first = _WIDTHS[0]
        widths = [first, *(width for width in _WIDTHS for _ in range(blocks))]
        self.stem = nn.Sequential(conv3x3(shape[0], first), nn.BatchNorm2d(first), nn.ReLU())
        self.blocks = nn.Sequential(*(_Block(a, b) for a, b in pairwise(widths)))
        self.head = nn.Linear(_WIDTHS[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, height, width) -> (B, classes)."""
        logits: Tensor = self.head(self.blocks(self.stem(images)).mean(dim=(2, 3)))
        return logits


class _Block(nn.Module):
    """Two convolutions and a shortcut; if the width doubles, the resolution is halved."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self._widened = width - width_in
        self._stride = 2 if self._widened else 1
        self.conv1, self.norm1 = conv3x3(width_in, width, self._stride), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = conv3x3(width, width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width_in, H, W) -> (B, width, H / stride, W / stride)."""
        inner = self.norm2(self.conv2(relu(self.norm1(self.conv1(x)))))
        half = self._widened // 2
        shortcut = pad(x[:, :, :: self._stride, :: self._stride], (0, 0, 0, 0, half, half))
        return relu(inner + shortcut)


def resnet20(shape: tuple[int, ...], classes: int) -> nn.Module:
    """20 layers, 0.27 million parameters.

    Returns:
        A model from images to logits.

    >>> sum(p.numel() for p in resnet20((3, 32, 32), 10).parameters())
    269722
    """
    return he_initialised(CifarResNet(shape, classes, blocks=3))


def resnet56(shape: tuple[int, ...], classes: int) -> nn.Module:
    """56 layers, 0.85 million parameters."""
    return he_initialised(CifarResNet(shape, classes, blocks=9))
