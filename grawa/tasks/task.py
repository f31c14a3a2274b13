"""What every task offers."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from grawa.errors import UserError


class Data(NamedTuple):
    """Samples for training and for testing, along the first dimension."""

    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """Data, a model for them, a loss to train and a metric to judge by.

    Attributes:
        metric: what `measure` returns, in words; smaller is better.
        num_classes: how many labels there are, or 0 if the targets are not labels.
    """

    metric: ClassVar[str]
    num_classes: ClassVar[int] = 0

    @abstractmethod
    def data(self, seed: int) -> Data:
        """The data of a run with this seed."""

    @abstractmethod
    def model(self, seed: int) -> nn.Module:
        """A model, initialised for this seed."""

    @abstractmethod
    def loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss over a batch, a scalar."""

    @abstractmethod
    def measure(self, model: nn.Module, data: Data) -> float:
        """The metric of a model; the model is in eval mode."""


def split(inputs: Tensor, targets: Tensor, train_size: int, order: Tensor) -> Data:
    """The first `train_size` samples of an order for training, the rest for testing.

    Returns:
        The data.

    Raises:
        UserError: if no sample would be left for the test.
    """
    if not 0 < train_size < len(inputs):
        raise UserError(
            f"train_size must lie between 1 and {len(inputs) - 1} (there are {len(inputs)} "
            f"samples and some are needed for the test), got {train_size}"
        )
    train, test = order[:train_size], order[train_size:]
    return Data(inputs[train], targets[train], inputs[test], targets[test])


def classification_error(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """The fraction of samples whose largest output is not at their label."""
    with torch.no_grad():
        return float((model(inputs).argmax(dim=1) != targets).double().mean())
