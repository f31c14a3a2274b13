"""Models and methods to measure with."""

from dataclasses import fields

import torch
from torch import nn

from grawa.strategies.protocol import Strategy


def moving_one(strategy: Strategy) -> Strategy:
    """The same strategy, which moves a worker that is alone, too, as if it were one of several."""
    kind = type(strategy)
    alone = type(kind.__name__, (kind,), {"moves_one_worker": True})
    options = {f.name: getattr(strategy, f.name) for f in fields(strategy) if f.init}
    found: Strategy = alone(**options)
    return found


class ManyTensors(nn.Module):
    """Parameters in a number of tensors of equal size, with gradients, without a forward pass.

    Args:
        parameters: P, in total.
        tensors: L; the last one has the remainder.
        seed: of parameters and gradients.
    """

    def __init__(self, parameters: int, tensors: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        size = parameters // tensors
        sizes = [size] * (tensors - 1) + [parameters - size * (tensors - 1)]
        self.tensors = nn.ParameterList([torch.randn(n, generator=generator) for n in sizes])
        for parameter in self.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
