"""Image batches: normalisation, cropping and random augmentation."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

_WHITE = 255.0


class Colours(NamedTuple):
    """Mean and standard deviation of each colour over a training set, where white is 1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def normalised(images: Tensor, colours: Colours, model: nn.Module) -> Tensor:
    """Images scaled to about mean 0 and variance 1, in the model's dtype, on its device.

    Args:
        images: bytes, (B, 3, height, width).
        colours: of the training set.
        model: has at least one parameter.

    Returns:
        (B, 3, height, width).
    """
    like = next(model.parameters())
    mean, std = (torch.tensor(values).to(like).view(3, 1, 1) for values in colours)
    return (images.to(like) / _WHITE - mean) / std


def crop_and_flip(images: Tensor, size: int, padding: int, random: torch.Generator) -> Tensor:
    """Cuts a square out of each image at a random position, and mirrors it with probability 1/2.

    Args:
        images: (B, C, height, width).
        size: width of the squares, at most height and width plus the padding.
        padding: width of a black border that is added to the images first.
        random: a generator on the CPU, so that a seed gives the same squares on every device.

    Returns:
        (B, C, size, size).

    Source: He et al. (2016), "Deep Residual Learning for Image Recognition", section 4.2, for
    CIFAR; Krizhevsky, Sutskever and Hinton (2012), section 4.1, for ImageNet.
    """
    padded = nn.functional.pad(images, (padding,) * 4)
    count, _, height, width = padded.shape
    top = torch.randint(height - size + 1, (count, 1), generator=random)
    left = torch.randint(width - size + 1, (count, 1), generator=random)
    flipped = torch.randint(2, (count, 1), generator=random).bool()
    place = torch.arange(size)
    rows = (top + place).to(images.device)  # (B, size)
    columns = (left + torch.where(flipped, place.flip(0), place)).to(images.device)
    which = torch.arange(count, device=images.device)
    cut = padded[which[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return cut.permute(0, 3, 1, 2).contiguous()


def center_crop(images: Tensor, size: int) -> Tensor:
    """The square in the middle of each image, (B, C, height, width) -> (B, C, size, size)."""
    height, width = images.shape[-2:]
    top, left = (height - size) // 2, (width - size) // 2
    return images[..., top : top + size, left : left + size]
