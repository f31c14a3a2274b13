"""What tasks have in common in which each sample has a label."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from grawa.lab.tasks.task import Data, Task

_MEASURED_AT_ONCE = 512
"""Samples; a bound on the memory that measuring a large model takes."""


@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """Trained by cross entropy, judged by the share of test samples that are put down wrongly.

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


def with_wrong_labels(
    targets: Tensor, share: float, num_classes: int, random: torch.Generator
) -> Tensor:
    """A share of the labels, to the nearest whole number of them, replaced by others at random.

    Args:
        targets: labels, (n,).
        share: how many of them are to be wrong, in [0, 1].
        num_classes: how many labels there are.
        random: says which, and by what.

    Returns:
        (n,).
    """
    count = round(share * len(targets))
    picked = torch.randperm(len(targets), generator=random)[:count]
    shift = torch.zeros_like(targets)
    shift[picked] = torch.randint(1, num_classes, (count,), generator=random)
    return (targets + shift) % num_classes
