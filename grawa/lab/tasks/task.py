"""The interface of tasks."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from grawa.errors import UserError


class Data(NamedTuple):
    """Samples for training and for testing, along the first dimension.

    Inputs may be stored compactly, such as pixels as bytes, or as file names; the task's `prepare`
    converts them to the model's input.
    """

    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor


class Chance(NamedTuple):
    """The metric of a predictor that has learnt nothing of the inputs."""

    value: float
    limit: float
    """A metric from here on is no better than chance, with two standard errors."""
    name: str


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """Data, a model, a loss to train and a metric to compare by.

    Attributes:
        metric: the name of what `measure` returns; smaller is better.
        num_classes: the number of labels, or 0 if the targets are not labels.
        imports: modules that its data need and that take long to import.
    """

    metric: ClassVar[str]
    num_classes: ClassVar[int] = 0
    imports: ClassVar[tuple[str, ...]] = ()

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

    def chance(self, data: Data) -> Chance | None:
        """The metric of the best guess without looking at inputs; `None` if it is not known."""
        return None

    def augment(self, inputs: Tensor, random: torch.Generator) -> Tensor:
        """Random augmentation of a training batch's inputs; by default none.

        Args:
            inputs: as they are stored, (B, ...).
            random: the worker's generator, on the CPU.

        Returns:
            Inputs for `loss`, (B, ...).
        """
        return inputs

    def prepare(self, inputs: Tensor, model: nn.Module) -> Tensor:
        """Converts inputs to the model's input; `loss` calls it, and so must others before a model.

        Args:
            inputs: as they are stored, as `augment` returned them, or prepared already, (B, ...).
            model: determines device and dtype.

        Returns:
            The model's inputs, (B, ...).
        """
        return inputs


def written(name: str) -> Mapping[str, str]:
    """The `metadata` of a field that has another name on the command line.

    Tasks need this for the options `model` and `data`, since they have methods with these names.

    Args:
        name: the name on the command line.

    Returns:
        The metadata.
    """
    return {"option": name}


def split(inputs: Tensor, targets: Tensor, train_size: int, order: Tensor) -> Data:
    """Splits ordered samples: the first `train_size` for training, the rest for testing.

    Returns:
        The data.

    Raises:
        UserError: if no training or no test sample would remain.
    """
    if not 0 < train_size < len(inputs):
        raise UserError(
            f"train_size must lie between 1 and {len(inputs) - 1} (there are {len(inputs)} "
            f"samples and some are needed for the test), got {train_size}"
        )
    train, test = order[:train_size], order[train_size:]
    return Data(inputs[train], targets[train], inputs[test], targets[test])
