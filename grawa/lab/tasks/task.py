"""What every task offers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from grawa.errors import UserError


class Data(NamedTuple):
    """Samples for training and for testing, along the first dimension.

    Inputs may be stored in a small form, such as pixels in bytes or names of files; the task's
    loss makes of them what its model takes.
    """

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

    def augment(self, inputs: Tensor, random: torch.Generator) -> Tensor:
        """Inputs of a training batch, changed at random where a task does that.

        Args:
            inputs: as they are stored, (B, ...).
            random: the worker's own, on the CPU.

        Returns:
            What `loss` takes in their place, (B, ...).
        """
        return inputs

    def prepare(self, inputs: Tensor, model: nn.Module) -> Tensor:
        """What the model itself takes; `loss` does this, for all others who call the model.

        Args:
            inputs: as they are stored, as `augment` made them, or prepared already, (B, ...).
            model: says on which device and in which dtype.

        Returns:
            The model's inputs, (B, ...).
        """
        return inputs


def written(name: str) -> Mapping[str, str]:
    """What a field's `metadata` say where the command line has another name for it.

    A task has methods `model` and `data`, and options that are best called so.

    Args:
        name: on the command line.

    Returns:
        The metadata.
    """
    return {"option": name}


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
