"""Models to measure with."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import relu


class ManyTensors(nn.Module):
    """Parameters in a number of tensors of equal size, with gradients; there is no forward pass.

    Args:
        parameters: P, all together.
        tensors: L; the last takes the remainder.
        seed: of parameters and gradients.
    """

    def __init__(self, parameters: int, tensors: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        size = parameters // tensors
        sizes = [size] * (tensors - 1) + [parameters - size * (tensors - 1)]
        self.tensors = nn.ParameterList([torch.randn(n, generator=generator) for n in sizes])
        for parameter in self.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)


class ResNet20(nn.Module):
    """The residual network of 20 layers for CIFAR: 0.27 million parameters.

    Source: He et al. (2016), "Deep Residual Learning for Image Recognition", section 4.2, with
    the parameter-free shortcuts of its option A.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        widths = [16] * 4 + [32] * 3 + [64] * 3
        self.stem = nn.Sequential(_conv(3, 16, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in pairwise(widths)))
        self.head = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 32, 32) -> (B, classes)."""
        logits: Tensor = self.head(self.blocks(self.stem(images)).mean(dim=(2, 3)))
        return logits


class Block(nn.Module):
    """Two convolutions and a shortcut; where the width doubles, the resolution halves."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self._widened = width - width_in
        self._stride = 2 if self._widened else 1
        self.conv1, self.norm1 = _conv(width_in, width, self._stride), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = _conv(width, width, 1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width_in, H, W) -> (B, width, H / stride, W / stride)."""
        inner = self.norm2(self.conv2(relu(self.norm1(self.conv1(x)))))
        half = self._widened // 2
        shortcut = nn.functional.pad(
            x[:, :, :: self._stride, :: self._stride], (0, 0, 0, 0, half, half)
        )
        return relu(inner + shortcut)


def _conv(width_in: int, width: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
