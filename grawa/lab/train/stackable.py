"""Finds out by a trial step whether the workers' local steps can be stacked."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from grawa.errors import UserError
from grawa.lab.tasks import Data, Task
from grawa.lab.train.settings import Settings
from grawa.lab.train.stacked_gradient import StackedGradient
from grawa.seeding import seeded
from grawa.workers.stack import stack_of

ROWS = 2
"""Number of models in a trial step."""

TOLERANCE = 1e-3
"""Relative tolerance of the comparison: far above rounding, far below any real difference."""

Outcome = dict[str, Tensor]
"""Results of a trial step, "losses" and so on -> all values, flat."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What a trial step shows.

    Attributes:
        names: of the parameters that have a gradient.
        obstacle: why the model can't be stacked; `None` if it can.
    """

    names: list[str]
    obstacle: str | None


def trained_names(task: Task, data: Data, settings: Settings) -> list[str]:
    """Makes sure by a trial step that the workers' local steps can be stacked.

    Args:
        task: the task.
        data: the task's data, on the device for the trial.
        settings: of the run.

    Returns:
        The names of the parameters that have a gradient.

    Raises:
        UserError: if the stacked step fails, or has other results.
    """
    tried = try_out(task, data, settings)
    if tried.obstacle is not None:
        raise UserError(
            "the model can't be trained with --stack-workers, so leave that out, or set it to "
            f"off: {tried.obstacle}"
        )
    return tried.names


def try_out(task: Task, data: Data, settings: Settings) -> Tried:
    """Makes a step with new models, one after another and stacked, and compares the results.

    Args:
        task: the task.
        data: the task's data, on the device for the trial.
        settings: of the run.

    Returns:
        What it shows.
    """
    picked = torch.arange(ROWS * settings.batch_size) % len(data.train_inputs)
    batches = picked.view(ROWS, -1).to(data.train_inputs.device)
    inputs, targets = data.train_inputs[batches], data.train_targets[batches]
    with seeded(settings.seed, "trial"):
        models = _models(task, data, settings)
        expected, names = _one_by_one(task, models, inputs, targets)
        models = _models(task, data, settings)
        try:
            found = _together(task, models, names, inputs, targets)
        except Exception as error:  # the model's code may raise anything
            cause = " ".join(str(error).split())
            return Tried(names=names, obstacle=f"it fails for several models at once: {cause}")
    for what, values in expected.items():
        if not vector_norm(found[what] - values) <= TOLERANCE * vector_norm(values):
            return Tried(names=names, obstacle=f"its {what} would differ")
    return Tried(names=names, obstacle=None)


def _models(task: Task, data: Data, settings: Settings) -> list[nn.Module]:
    device, dtype = data.train_inputs.device, getattr(torch, settings.dtype)
    return [task.model(settings.seed).to(device, dtype) for _ in range(ROWS)]


def _one_by_one(
    task: Task, models: Sequence[nn.Module], inputs: Tensor, targets: Tensor
) -> tuple[Outcome, list[str]]:
    losses = []
    for model, *batch in zip(models, inputs, targets, strict=True):
        losses.append(task.loss(model, *batch))
        losses[-1].backward()
    tables = [
        {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        for model in models
    ]
    names = [name for name in tables[0] if all(name in table for table in tables)]
    gradients = {name: torch.stack([table[name] for table in tables]) for name in names}
    return _outcome(models, torch.stack(losses), gradients), names


def _together(
    task: Task, models: Sequence[nn.Module], names: Sequence[str], inputs: Tensor, targets: Tensor
) -> Outcome:
    tables: list[dict[str, Tensor]] = [dict(model.named_parameters()) for model in models]
    frozen = stack_of(tables, list(tables[0]))
    trained = {name: frozen.pop(name) for name in names}
    tables = [dict(model.named_buffers()) for model in models]
    buffers = stack_of(tables, list(tables[0]))
    run = StackedGradient(task, models[0], trained, frozen, buffers)
    gradients, losses = run(inputs, targets)
    return _outcome(models, losses, gradients)


def _outcome(models: Sequence[nn.Module], losses: Tensor, gradients: dict[str, Tensor]) -> Outcome:
    buffers = [torch.cat([*map(_flat, model.buffers()), torch.zeros(0)]) for model in models]
    return {
        "losses": _flat(losses),
        "gradients": torch.cat([*map(_flat, gradients.values())]),
        "buffers": torch.cat(buffers),
    }


def _flat(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64).flatten()
