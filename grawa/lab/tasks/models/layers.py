"""Parts that several convolutional networks share."""

from torch import Tensor, nn
from torch.nn.functional import relu
from torch.nn.init import kaiming_normal_


def conv3x3(width_in: int, width: int, stride: int = 1) -> nn.Conv2d:
    """A convolution of 3 x 3 without bias that keeps the size, or divides it by the stride."""
    return nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)


def conv1x1(width_in: int, width: int, stride: int = 1) -> nn.Conv2d:
    """A convolution of 1 x 1 without bias."""
    return nn.Conv2d(width_in, width, 1, stride, bias=False)


class Preactivated(nn.Module):
    """A residual network whose blocks normalise first, with one more normalisation at the end.

    Args:
        stem: the first layers.
        blocks: the residual blocks.
        width: number of channels after the blocks.
        classes: number of outputs.
    """

    def __init__(self, stem: nn.Module, blocks: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.stem, self.blocks = stem, blocks
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, height, width) -> (B, classes)."""
        features = relu(self.norm(self.blocks(self.stem(images))))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


def he_initialised(model: nn.Module) -> nn.Module:
    """Draws the weights of convolutions from N(0, 2 / fan out).

    Args:
        model: changed in place.

    Returns:
        The same model.

    Source: He et al. (2015), "Delving Deep into Rectifiers", section 2.2, backward case.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model
