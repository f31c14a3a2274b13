"""BatchNorm's statistics for parameters that were averaged, not trained, such as a center."""

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from grawa.errors import UserError
from grawa.modes import evaluating


def recalibrate_batchnorm(model: nn.Module, loader: Iterable[Any]) -> None:
    """Computes BatchNorm's running statistics anew, for the model's current parameters.

        mean, variance <- their averages over the batches, each batch with the same weight

    The averages of several models' statistics need not fit the average of their parameters. Only
    BatchNorm layers run in training mode meanwhile, so dropout stays off; modes and momentum are
    restored afterwards. A model without BatchNorm is not changed.

    Args:
        model: the model, changed in place.
        loader: batches of training samples, about as large as in training; inputs, or tuples
            whose first entry is the inputs.

    Raises:
        UserError: if there is no batch.

    >>> model = nn.Sequential(nn.BatchNorm1d(1))
    >>> recalibrate_batchnorm(model, [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [7.0]])])
    >>> model[0].running_mean, model[0].running_var
    (tensor([4.]), tensor([2.]))

    Source: Izmailov et al. (2018), "Averaging Weights Leads to Wider Optima and Better
    Generalization", section 3.2.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    with ExitStack() as stack, torch.no_grad():
        stack.enter_context(evaluating(model))
        for norm in norms:
            stack.callback(setattr, norm, "momentum", norm.momentum)
            norm.reset_running_stats()
            norm.momentum = None  # a plain average of the batches
            norm.training = True
        stack.callback(_eval, norms)
        batches = 0
        for batch in loader:
            model(batch if isinstance(batch, Tensor) else batch[0])
            batches += 1
    if not batches:
        raise UserError("loader has no batch, but BatchNorm's statistics need at least one")


def _eval(norms: list[_BatchNorm]) -> None:
    """Puts the layers in eval mode, as `evaluating` left them; it restores their own modes."""
    for norm in norms:
        norm.training = False
