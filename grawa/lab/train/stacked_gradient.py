"""Losses and gradients of several models in one batched pass."""

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from grawa.lab.tasks import Task
from grawa.math.leaves import Stack


class _Objective(nn.Module):
    """A task's loss as a module, for `functional_call` with other tensors for the model's."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._task = task

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return self._task.loss(self.model, inputs, targets)


class StackedGradient:
    """The losses of K models, each on a batch of its own, and their gradients.

    Args:
        task: the task, which defines the loss.
        model: one of the models, for its code; its tensors are not used.
        trained: the parameters with gradients, name -> (K, *shape).
        frozen: all other parameters.
        buffers: the buffers, which the pass may change.
    """

    def __init__(
        self, task: Task, model: nn.Module, trained: Stack, frozen: Stack, buffers: Stack
    ) -> None:
        self._objective = _Objective(task, model)
        self._trained, self._buffers = dict(trained), list(buffers.values())
        # vmap silently leaves BatchNorm's statistics unchanged unless each stack of them is
        # contiguous, so the pass works on contiguous copies.
        self._copies = [rows.clone(memory_format=torch.contiguous_format) for rows in self._buffers]
        self._rest = {**frozen, **dict(zip(buffers, self._copies, strict=True))}
        self._run = vmap(grad_and_value(self._loss))

    def _loss(self, trained: Stack, rest: Stack, inputs: Tensor, targets: Tensor) -> Tensor:
        tensors = {f"model.{name}": tensor for name, tensor in {**trained, **rest}.items()}
        loss: Tensor = functional_call(self._objective, tensors, (inputs, targets))
        return loss

    def __call__(self, inputs: Tensor, targets: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Computes gradients and losses.

        Args:
            inputs: (K, B, ...).
            targets: (K, B, ...).

        Returns:
            The gradients, name -> (K, *shape), and the losses, (K,).
        """
        for copy, rows in zip(self._copies, self._buffers, strict=True):
            copy.copy_(rows)
        gradients, losses = self._run(self._trained, self._rest, inputs, targets)
        for copy, rows in zip(self._copies, self._buffers, strict=True):
            rows.copy_(copy)
        return gradients, losses
