"""The models of the tasks, by name."""

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from grawa.errors import UserError
from grawa.lab.tasks.models.cnn import SmallCNN
from grawa.lab.tasks.models.densenet import densenet121
from grawa.lab.tasks.models.mlp import small_mlp
from grawa.lab.tasks.models.pyramidnet import pyramidnet110_270
from grawa.lab.tasks.models.resnet import resnet20, resnet56
from grawa.lab.tasks.models.resnet50 import resnet50
from grawa.lab.tasks.models.transformer import small_transformer, transformer
from grawa.lab.tasks.models.vgg import vgg16
from grawa.lab.tasks.models.wide_resnet import wide_resnet28_10

Maker = Callable[[tuple[int, ...], int], nn.Module]
"""Makes a model, given the shape of a sample and the number of classes."""

MODELS: Mapping[str, Maker] = {
    "mlp": small_mlp,
    "cnn": SmallCNN,
    "resnet20": resnet20,
    "resnet56": resnet56,
    "vgg16": vgg16,
    "wide_resnet28_10": wide_resnet28_10,
    "pyramidnet110_270": pyramidnet110_270,
    "densenet121": densenet121,
    "resnet50": resnet50,
    "transformer": transformer,
    "transformer_small": small_transformer,
}

CIFAR_MODELS = (
    "cnn",
    "resnet20",
    "resnet56",
    "vgg16",
    "wide_resnet28_10",
    "pyramidnet110_270",
    "densenet121",
)
"""Models for images of 32 x 32 pixels."""


def check_model(name: str, allowed: Sequence[str]) -> None:
    """Refuses a model that a task does not have.

    Raises:
        UserError: with the allowed names.
    """
    if name not in allowed:
        raise UserError(f"model must be one of {', '.join(allowed)}, got {name!r}")


def build(name: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    """A new model, initialised from torch's global generator.

    Args:
        name: one of `MODELS`.
        shape: of a sample: (channels, height, width) of an image, (channels, length) of a signal,
            (length,) of a text.
        classes: number of outputs.

    Returns:
        A model that maps (B, *shape) to (B, classes); for texts (B, T) to (B, T, classes).

    >>> build("mlp", (1, 8, 8), 10)[0]
    Linear(in_features=64, out_features=64, bias=True)
    """
    return MODELS[name](shape, classes)
