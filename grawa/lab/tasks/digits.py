"""Handwritten digits: 1,797 real images of 8 x 8 pixels, shipped with scikit-learn."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from grawa.errors import UserError
from grawa.lab.tasks.classification import Classification, with_wrong_labels
from grawa.lab.tasks.models.registry import build, check_model
from grawa.lab.tasks.task import Data, split, written
from grawa.seeding import generator, seeded

_WHITE = 16.0  # the images' largest value


@dataclass(frozen=True, kw_only=True)
class Digits(Classification):
    """Classify real images of digits with a small multilayer perceptron or convolutional network.

    Args:
        train_size: number of training images; the rest of the 1,797 are test images.
        architecture: "mlp" (64-64-10, with a ReLU) or "cnn"; `model=` on the command line.
        label_noise: fraction of the training labels that are wrong; each seed has its own.

    Source: Alpaydin and Kaynak (1998), "Optical Recognition of Handwritten Digits", UCI.
    """

    num_classes: ClassVar[int] = 10
    imports: ClassVar[tuple[str, ...]] = ("sklearn.datasets",)
    architectures: ClassVar[tuple[str, ...]] = ("mlp", "cnn")

    train_size: int = 1200
    architecture: str = field(default="mlp", metadata=written("model"))
    label_noise: float = 0.0

    def __post_init__(self) -> None:
        check_model(self.architecture, self.architectures)
        if not 0.0 <= self.label_noise <= 1.0:
            raise UserError(f"label_noise must lie in [0, 1], got {self.label_noise}")

    def data(self, seed: int) -> Data:
        """The images, with a different split into training and test images for each seed."""
        from sklearn.datasets import load_digits  # takes a second, because it imports SciPy

        bunch = load_digits()
        inputs = torch.from_numpy(bunch.data).to(torch.float32) / _WHITE
        targets = torch.from_numpy(bunch.target).to(torch.int64)
        order = torch.randperm(len(inputs), generator=generator(seed, "split"))
        data = split(inputs, targets, self.train_size, order)
        random = generator(seed, "label-noise")
        labels = with_wrong_labels(data.train_targets, self.label_noise, self.num_classes, random)
        return data._replace(train_targets=labels)

    def model(self, seed: int) -> nn.Module:
        """The model named by `architecture`, for images of 8 x 8 pixels as rows of 64."""
        with seeded(seed, "model"):
            return build(self.architecture, (1, 8, 8), self.num_classes)
