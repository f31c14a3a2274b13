"""The gradients of all workers of `language_model.py`, one after another or in one pass."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from grawa.lab.tasks import Task
from grawa.lab.train.stacked_gradient import StackedGradient

_IGNORED = -100
"""A target that cross entropy leaves out."""

Batch = tuple[Tensor, Tensor]
"""Inputs and targets, (B, context) each."""

Gradients = Callable[[Sequence[Batch]], Tensor]
"""A batch of each of N workers -> their losses, (N,); each parameter then has its gradient."""


def one_by_one(task: Task, models: Sequence[nn.Module]) -> Gradients:
    """One forward and backward pass after another."""

    def gradients(batches: Sequence[Batch]) -> Tensor:
        losses = []
        for model, batch in zip(models, batches, strict=True):
            model.zero_grad()
            loss = task.loss(model, *batch)
            loss.backward()
            losses.append(loss.detach())
        return torch.stack(losses)

    return gradients


def stacked(task: Task, models: Sequence[nn.Module]) -> Gradients:
    """One batched pass over copies of all parameters; small batches are filled up."""
    tables = [dict(model.named_parameters()) for model in models]
    copies = {name: torch.stack([table[name].detach() for table in tables]) for name in tables[0]}
    run = StackedGradient(task, models[0], copies, {}, {})

    @torch.no_grad()
    def gradients(batches: Sequence[Batch]) -> Tensor:
        for name, rows in copies.items():
            torch.stack([table[name] for table in tables], out=rows)
        most = max(len(inputs) for inputs, _ in batches)
        inputs = torch.stack([_filled(inputs, most, 0) for inputs, _ in batches])
        targets = torch.stack([_filled(targets, most, _IGNORED) for _, targets in batches])
        found, losses = run(inputs, targets)
        for worker, table in enumerate(tables):
            for name, parameter in table.items():
                parameter.grad = found[name][worker]
        return losses

    return gradients


def _filled(rows: Tensor, count: int, value: int) -> Tensor:
    """With more rows of a value, so many in total."""
    return torch.cat([rows, rows.new_full((count - len(rows), *rows.shape[1:]), value)])
