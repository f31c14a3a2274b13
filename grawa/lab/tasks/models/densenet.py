"""DenseNet-121 for CIFAR: 7.0 million parameters."""

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from grawa.lab.tasks.models.layers import conv1x1, conv3x3, he_initialised

_GROWTH = 32
_BLOCKS = (6, 12, 24, 16)


class DenseNet121(nn.Module):
    """A network in which each layer's input is the outputs of all layers before it in its block.

    Args:
        shape: of an image: (channels, height, width).
        classes: number of outputs.

    Deviation: a 3 x 3 convolution replaces the 7 x 7 convolution and the pooling at the start,
    which are meant for images of 224 x 224 pixels, as is usual for CIFAR.

    Source: Huang et al. (2017), "Densely Connected Convolutional Networks", table 1.
    """

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        width = 2 * _GROWTH
        layers: list[nn.Module] = [conv3x3(shape[0], width)]
        for index, count in enumerate(_BLOCKS):
            layers += [_Layer(width + _GROWTH * i) for i in range(count)]
            width += _GROWTH * count
            if index < len(_BLOCKS) - 1:
                layers.append(_halving(width))
                width //= 2
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, height, width) -> (B, classes)."""
        logits: Tensor = self.head(self.features(images).mean(dim=(2, 3)))
        return logits


class _Layer(nn.Module):
    """Appends 32 channels to its input."""

    def __init__(self, width_in: int) -> None:
        super().__init__()
        inner = 4 * _GROWTH
        self.norm1, self.conv1 = nn.BatchNorm2d(width_in), conv1x1(width_in, inner)
        self.norm2, self.conv2 = nn.BatchNorm2d(inner), conv3x3(inner, _GROWTH)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width_in, H, W) -> (B, width_in + 32, H, W)."""
        new = self.conv2(relu(self.norm2(self.conv1(relu(self.norm1(x))))))
        return torch.cat([x, new], dim=1)


def _halving(width: int) -> nn.Module:
    """Halves width and resolution."""
    return nn.Sequential(
        nn.BatchNorm2d(width), nn.ReLU(), conv1x1(width, width // 2), nn.AvgPool2d(2)
    )


def densenet121(shape: tuple[int, ...], classes: int) -> nn.Module:
    """121 layers, 7.0 million parameters."""
    return he_initialised(DenseNet121(shape, classes))
