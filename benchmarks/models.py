"""Models to measure with."""

import torch
from torch import nn


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
