"""Handwritten digits: 1,797 real images of 8 x 8 pixels, shipped with scikit-learn."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from grawa.seeding import generator, seeded
from grawa.tasks.models.mlp import mlp
from grawa.tasks.task import Data, Task, classification_error, split

_WHITE = 16.0  # the images' largest value


@dataclass(frozen=True, kw_only=True)
class Digits(Task):
    """Which digit is it? A small multilayer perceptron on scikit-learn's digits.

    Args:
        train_size: images to train on; the rest, of 1,797, are for the test.

    Source: Alpaydin and Kaynak (1998), "Optical Recognition of Handwritten Digits", UCI.
    """

    metric: ClassVar[str] = "test error"
    num_classes: ClassVar[int] = 10

    train_size: int = 1200

    def data(self, seed: int) -> Data:
        """Another split into training and test images for each seed."""
        bunch = load_digits()
        inputs = torch.from_numpy(bunch.data).to(torch.float32) / _WHITE
        targets = torch.from_numpy(bunch.target).to(torch.int64)
        order = torch.randperm(len(inputs), generator=generator(seed, "split"))
        return split(inputs, targets, self.train_size, order)

    def model(self, seed: int) -> nn.Module:
        """64-64-10, with a ReLU."""
        with seeded(seed, "model"):
            return mlp(64, 64, 10)

    def loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy."""
        return nn.functional.cross_entropy(model(inputs), targets)

    def measure(self, model: nn.Module, data: Data) -> float:
        """Classification error on the test images."""
        return classification_error(model, data.test_inputs, data.test_targets)
