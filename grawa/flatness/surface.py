"""The loss of a model over fixed samples, as a function of its parameters."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from grawa.errors import UserError
from grawa.modes import evaluating
from grawa.workers.batchnorm import recalibrate_batchnorm

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""The mean loss of a model over a batch of inputs and targets, a scalar."""


@dataclass(frozen=True, kw_only=True)
class Surface:
    """A loss surface over the P trained parameters of a model, those with `requires_grad`.

    The model runs in eval mode, so that BatchNorm uses its running statistics and dropout is off:
    the same parameters always give the same loss. For an average of models call
    `grawa.recalibrate_batchnorm` first.

    Args:
        model: the model; after an evaluation at other parameters, its own are restored.
        loss: computes the mean loss over a batch.
        inputs: the samples, along the first dimension.
        targets: their targets.
        batch_size: most samples in a batch; the surface does not depend on it.
        recalibrate: whether BatchNorm's statistics are computed anew from these samples at each
            other position; otherwise the model's statistics are used.

    Raises:
        UserError: if there are no samples or no trained parameters.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> surface = Surface(
    ...     model=model, loss=lambda m, x, y: (m(x) - y).square().mean(),
    ...     inputs=torch.tensor([[1.0], [2.0]]), targets=torch.zeros(2, 1))
    >>> surface.at(torch.tensor([2.0]))
    10.0
    """

    model: nn.Module
    loss: Loss
    inputs: Tensor
    targets: Tensor
    batch_size: int = 256
    recalibrate: bool = False

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.targets) or not len(self.inputs) or self.batch_size < 1:
            raise UserError(
                "a loss surface needs samples with a target each and a positive batch size, got "
                f"{len(self.inputs)} inputs, {len(self.targets)} targets, {self.batch_size}"
            )
        if not self.parameters:
            raise UserError("the model has no trained parameters, so there is no loss surface")

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trained parameters."""
        return [p for p in self.model.parameters() if p.requires_grad]

    @property
    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """The samples in batches of nearly equal size."""
        count = -(-len(self.inputs) // self.batch_size)
        parts = (self.inputs.tensor_split(count), self.targets.tensor_split(count))
        return list(zip(*parts, strict=True))

    def position(self) -> Tensor:
        """A copy of the model's parameters as a vector, (P,)."""
        return parameters_to_vector(self.parameters).detach().clone()

    @contextmanager
    def moved(self, position: Tensor) -> Generator[None]:
        """Gives the model other parameters, and restores its own afterwards.

        Args:
            position: the other parameters, (P,).

        Yields:
            Nothing.
        """
        changed = [*self.parameters, *(self.model.buffers() if self.recalibrate else ())]
        before = [tensor.detach().clone() for tensor in changed]
        parts = position.split([p.numel() for p in self.parameters])
        try:
            _put(self.parameters, [part.view_as(p) for part, p in zip(parts, before, strict=False)])
            if self.recalibrate:
                recalibrate_batchnorm(self.model, self.batches)
            yield
        finally:
            _put(changed, before)

    def value(self) -> float:
        """The loss at the model's parameters."""
        total = 0.0
        with evaluating(self.model), torch.no_grad():
            for inputs, targets in self.batches:
                total += float(self.loss(self.model, inputs, targets)) * len(inputs)
        return total / len(self.inputs)

    def at(self, position: Tensor) -> float:
        """The loss at other parameters, (P,)."""
        with self.moved(position):
            return self.value()

    def gradient(self) -> Tensor:
        """The gradient at the model's parameters, (P,); does not change `.grad`."""
        params = self.parameters
        total = [torch.zeros_like(p) for p in params]
        with evaluating(self.model), torch.enable_grad():
            for inputs, targets in self.batches:
                loss = self.loss(self.model, inputs, targets)
                grads = torch.autograd.grad(loss, params, allow_unused=True)
                share = len(inputs) / len(self.inputs)
                for sum_, grad in zip(total, grads, strict=True):
                    if grad is not None:
                        sum_.add_(grad, alpha=share)
        return parameters_to_vector(total)


def _put(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)
