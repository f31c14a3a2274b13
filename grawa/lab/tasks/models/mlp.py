"""Multilayer perceptrons."""

from itertools import pairwise
from math import prod

from torch import nn

_HIDDEN = 64


def mlp(*sizes: int) -> nn.Sequential:
    """Linear layers of these sizes with a ReLU between any two.

    Returns:
        A model with `sizes[0]` inputs and `sizes[-1]` outputs.

    >>> sum(p.numel() for p in mlp(64, 64, 10).parameters())
    4810
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def small_mlp(shape: tuple[int, ...], classes: int) -> nn.Module:
    """A perceptron with one hidden layer of 64 units, on flattened samples."""
    return mlp(prod(shape), _HIDDEN, classes)
