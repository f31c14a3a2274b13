"""A task of a user's own, from functions and tensors."""

from collections.abc import Callable
from dataclasses import dataclass, make_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from grawa.errors import UserError
from grawa.lab.tasks.classification import Classification
from grawa.lab.tasks.task import Data, Task
from grawa.seeding import seeded

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
Measure = Callable[[nn.Module, Tensor, Tensor], float]


def custom(
    *,
    model: Callable[[], nn.Module],
    data: tuple[Tensor, Tensor, Tensor, Tensor] | Callable[[int], tuple[Tensor, ...]],
    loss: Loss | None = None,
    measure: Measure | None = None,
    metric: str | None = None,
) -> Task:
    """A task for `grawa train file.py:function`, where the function returns it.

    Args:
        model: makes a model; random numbers are seeded by the run.
        data: training inputs and targets, test inputs and targets; or a function of the run's seed
            that returns them.
        loss: computes the mean loss of a model on inputs and targets, a scalar; by default cross
            entropy of logits.
        measure: computes the metric of a model, in eval mode and without gradients, on the test
            data; smaller is better. By default the fraction that is classified wrongly, or the
            loss, if there is one.
        metric: its name; a name that ends with "error" is shown in percent.

    Returns:
        The task; a `UserError` if the data are not four tensors, or not labels where there is no
        loss.

    >>> task = custom(model=lambda: nn.Linear(2, 3), data=(
    ...     torch.zeros(4, 2), torch.tensor([0, 1, 2, 0]), torch.zeros(2, 2), torch.tensor([0, 1])))
    >>> task.metric, task.num_classes
    ('test error', 3)
    """
    labels = 0 if loss is not None else _classes(_made(data, 0))
    name = metric or ("test loss" if loss is not None else "test error")
    base = _Classified if loss is None and measure is None else _Free
    kind: Any = make_dataclass(
        "Custom", [], bases=(base,), frozen=True, kw_only=True,
        namespace={"metric": name, "num_classes": labels},
    )  # fmt: skip
    made: Task = kind(make=model, source=data, computed=loss, measured=measure)
    return made


@dataclass(frozen=True, kw_only=True)
class _Own(Task):
    """What both kinds share."""

    make: Callable[[], nn.Module]
    source: Any
    computed: Loss | None
    measured: Measure | None

    def data(self, seed: int) -> Data:
        """The user's tensors."""
        return _made(self.source, seed)

    def model(self, seed: int) -> nn.Module:
        """The user's model."""
        with seeded(seed, "model"):
            return self.make()


@dataclass(frozen=True, kw_only=True)
class _Classified(_Own, Classification):
    """By cross entropy, and the fraction that is classified wrongly."""


@dataclass(frozen=True, kw_only=True)
class _Free(_Own):
    """By the user's functions."""

    def loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """The user's loss."""
        if self.computed is not None:
            return self.computed(model, inputs, targets)
        return nn.functional.cross_entropy(model(inputs), targets)

    def measure(self, model: nn.Module, data: Data) -> float:
        """The user's metric."""
        measured = self.measured or self.loss
        with torch.no_grad():
            return float(measured(model, data.test_inputs, data.test_targets))


def _made(source: Any, seed: int) -> Data:
    found = source(seed) if callable(source) else source
    if not (len(found) == 4 and all(isinstance(each, Tensor) for each in found)):
        raise UserError(
            "data of a task must be four tensors: training inputs and targets, test inputs and "
            "targets"
        )
    return Data(*found)


def _classes(data: Data) -> int:
    targets = torch.cat([data.train_targets, data.test_targets])
    if targets.is_floating_point() or targets.dim() != 1:
        raise UserError(
            "the targets of a task without a loss must be labels, whole numbers in (n,)"
        )
    return int(targets.max()) + 1
