"""The base of tasks in which each sample has a label."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from grawa.lab.tasks.task import Chance, Data, Task

_MEASURED_AT_ONCE = 512
"""Samples in a batch when a model is measured, which bounds the memory for large models."""


@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """Trained by cross entropy, measured by the fraction of test samples classified wrongly.

    Models return logits, (B, classes); targets are labels, (n,).
    """

    metric: ClassVar[str] = "test error"

    def loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy."""
        return nn.functional.cross_entropy(model(self.prepare(inputs, model)), targets)

    def measure(self, model: nn.Module, data: Data) -> float:
        """Classification error on the test samples, in [0, 1]."""
        parts = zip(
            data.test_inputs.split(_MEASURED_AT_ONCE),
            data.test_targets.split(_MEASURED_AT_ONCE),
            strict=True,
        )
        with torch.no_grad():
            wrong = [
                (model(self.prepare(inputs, model)).argmax(dim=1) != labels).double().sum()
                for inputs, labels in parts
            ]
            return float(torch.stack(wrong).sum() / len(data.test_targets))

    def chance(self, data: Data) -> Chance:
        """The error of always guessing the most common label."""
        count = len(data.test_targets)
        error = 1.0 - float(data.test_targets.bincount().max()) / count
        deviation = math.sqrt(error * (1.0 - error) / count)
        return Chance(error, error - 2.0 * deviation, "always guessing the most common label")


def with_wrong_labels(
    targets: Tensor, share: float, num_classes: int, random: torch.Generator
) -> Tensor:
    """Labels of which a fraction, rounded to a whole number, is replaced by random other ones.

    Args:
        targets: labels, (n,).
        share: the fraction to replace, in [0, 1].
        num_classes: the number of different labels.
        random: the generator.

    Returns:
        (n,).
    """
    count = round(share * len(targets))
    picked = torch.randperm(len(targets), generator=random)[:count]
    shift = torch.zeros_like(targets)
    shift[picked] = torch.randint(1, num_classes, (count,), generator=random)
    return (targets + shift) % num_classes
