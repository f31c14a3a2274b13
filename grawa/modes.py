"""The train and eval modes of a model's modules."""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Puts the model in eval mode; afterwards each module has its own mode again.

    Yields:
        Nothing.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def undisturbed() -> Generator[None]:
    """No gradients, no inference mode, and new tensors on the CPU whatever the user has set.

    Yields:
        Nothing.
    """
    with torch.inference_mode(False), torch.no_grad():
        if torch.get_default_device().type == "cpu":
            yield
        else:
            with torch.device("cpu"):
                yield
