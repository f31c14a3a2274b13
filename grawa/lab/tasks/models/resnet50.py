"""The residual network of 50 layers for ImageNet: 25.6 million parameters."""

from torch import Tensor, nn
from torch.nn.functional import relu

from grawa.lab.tasks.models.layers import conv1x1, conv3x3, he_initialised

_STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
"""Width of the inner convolution, and number of blocks."""

_EXPANSION = 4
"""Ratio of a block's outer width to its inner one."""


class ResNet50(nn.Module):
    """Bottleneck blocks after a 7 x 7 convolution.

    Args:
        shape: of an image: (channels, height, width).
        classes: number of outputs.

    Deviation: blocks that halve the resolution do so in the 3 x 3 convolution, not in the first
    1 x 1 convolution, as is now usual; the number of parameters is the same.

    Source: He et al. (2016), "Deep Residual Learning for Image Recognition", table 1.
    """

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(shape[0], 64, 7, 2, padding=3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, padding=1),
        )
        blocks: list[nn.Module] = []
        width_in = 64
        for stage, (width, count) in enumerate(_STAGES):
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(_Bottleneck(width_in, width, stride))
                width_in = _EXPANSION * width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(width_in, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, height, width) -> (B, classes)."""
        logits: Tensor = self.head(self.blocks(self.stem(images)).mean(dim=(2, 3)))
        return logits


class _Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions; the shortcut is projected if the shape changes."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        outer = _EXPANSION * width
        self.conv1, self.norm1 = conv1x1(width_in, width), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = conv3x3(width, width, stride), nn.BatchNorm2d(width)
        self.conv3, self.norm3 = conv1x1(width, outer), nn.BatchNorm2d(outer)
        self.shortcut = (
            nn.Sequential(conv1x1(width_in, outer, stride), nn.BatchNorm2d(outer))
            if stride > 1 or width_in != outer
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, width_in, H, W) -> (B, 4 width, H / stride, W / stride)."""
        inner = relu(self.norm1(self.conv1(x)))
        inner = self.norm3(self.conv3(relu(self.norm2(self.conv2(inner)))))
        return relu(inner + self.shortcut(x))


def resnet50(shape: tuple[int, ...], classes: int) -> nn.Module:
    """50 layers, 25.6 million parameters with 1,000 classes."""
    return he_initialised(ResNet50(shape, classes))
