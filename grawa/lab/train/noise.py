"""Noise on inputs and on gradients."""

import math

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm


def noisy(inputs: Tensor, strength: float, random: torch.Generator) -> Tensor:
    """Inputs with noise: normal noise on real numbers; tokens are replaced by others of the batch.

    Args:
        inputs: (B, ...).
        strength: standard deviation of the noise over that of the inputs; for tokens, the
            probability that one is replaced.
        random: a generator on the CPU.

    Returns:
        Noisy inputs, of the same shape and dtype.

    >>> random = torch.Generator().manual_seed(0)
    >>> noisy(torch.ones(2, 3), 0.5, random)  # inputs that don't vary have no noise
    tensor([[1., 1., 1.],
            [1., 1., 1.]])
    """
    if inputs.is_floating_point():
        noise = torch.randn(inputs.shape, generator=random).to(inputs)
        return inputs + strength * inputs.std(correction=0) * noise
    picked = torch.randint(inputs.numel(), inputs.shape, generator=random).to(inputs.device)
    replaced = torch.rand(inputs.shape, generator=random).to(inputs.device) < strength
    return torch.where(replaced, inputs.flatten()[picked], inputs)


def add_gradient_noise_(model: nn.Module, strength: float, random: torch.Generator) -> None:
    """Adds isotropic noise to a model's gradients.

        g <- g + strength ||g|| z / sqrt(P),    z ~ N(0, 1) in all P dimensions

    so that the norm of the noise is about `strength` times the norm of the gradient.

    Args:
        model: a model with gradients.
        strength: norm of the noise over that of the gradient.
        random: a generator on the CPU.
    """
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    sizes = [grad.numel() for grad in grads]
    norm = vector_norm(torch.stack(torch._foreach_norm(grads)))
    scale = strength / math.sqrt(sum(sizes)) * norm
    drawn = torch.randn(sum(sizes), generator=random).to(grads[0]) * scale
    parts = zip(drawn.split(sizes), grads, strict=True)
    torch._foreach_add_(grads, [part.view_as(grad) for part, grad in parts])
