"""BatchNorm's statistics for parameters that were never trained with any, such as a center."""

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from grawa.errors import UserError
from grawa.modes import evaluating


def recalibrate_batchnorm(model: nn.Module, loader: Iterable[Any]) -> None:
    """Computes BatchNorm's running statistics anew, for the parameters as they are.

        mean, variance <- their averages over the batches, each batch with the same weight

    An average of models has parameters of its own, to which the averages of the models'
    statistics need not fit. Only BatchNorm runs in training mode meanwhile, so dropout stays off;
    modes and momentum are as they were afterwards. A model without BatchNorm is left alone.

    Args:
        model: the model, changed in place.
        loader: batches of training samples, of a size like that of training; inputs, or tuples
            that begin with them.

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
        raise UserError("BatchNorm's statistics need at least one batch to be computed from")


def _eval(norms: list[_BatchNorm]) -> None:
    """The norms in eval mode, from which `evaluating` puts them back."""
    for norm in norms:
        norm.training = False
