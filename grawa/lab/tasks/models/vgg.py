"""VGG-16 for CIFAR, with batch normalisation: 14.7 million parameters."""

from torch import nn

from grawa.lab.tasks.models.layers import conv3x3, he_initialised

_WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Widths of the convolutions before each halving of the resolution."""


def vgg16(shape: tuple[int, ...], classes: int) -> nn.Module:
    """13 convolutions with batch normalisation and one linear layer.

    Args:
        shape: of an image: (channels, height, width), both at least 32.
        classes: number of outputs.

    Returns:
        The model.

    Deviation: one linear layer of 512 inputs in place of three of 4,096 units, as is usual for
    images of 32 x 32 pixels, and batch normalisation: 14.7 million parameters, not 138 million.

    Source: Simonyan and Zisserman (2015), "Very Deep Convolutional Networks for Large-Scale Image
    Recognition", table 1, column D.
    """
    layers: list[nn.Module] = []
    width_in = shape[0]
    for widths in _WIDTHS:
        for width in widths:
            layers += [conv3x3(width_in, width), nn.BatchNorm2d(width), nn.ReLU()]
            width_in = width
        layers.append(nn.MaxPool2d(2))
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width_in, classes)]
    return he_initialised(nn.Sequential(*layers))
