"""Noise on inputs and on gradients."""

import math

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm


def noisy(inputs: Tensor, strength: float, random: torch.Generator) -> Tensor:
    """Inputs with noise.

    Args:
        inputs: (B, ...). To real numbers normal noise is added; a token's place is taken
            by another, which is picked from the batch.
        strength: of the noise, its standard deviation over that of the inputs; of tokens, the
            probability that one is replaced.
        random: on the CPU.

    Returns:
        As the inputs.

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
    """Adds noise to a model's gradients, the same in every direction.

        g <- g + strength ||g|| z / sqrt(P),    z ~ N(0, 1) in all P dimensions

    so that the noise is about `strength` times as long as the gradient.

    Args:
        model: has gradients.
        strength: length of the noise over that of the gradient.
        random: on the CPU.
    """
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    sizes = [grad.numel() for grad in grads]
    norm = vector_norm(torch.stack(torch._foreach_norm(grads)))
    scale = strength / math.sqrt(sum(sizes)) * norm
    drawn = torch.randn(sum(sizes), generator=random).to(grads[0]) * scale
    parts = zip(drawn.split(sizes), grads, strict=True)
    torch._foreach_add_(grads, [part.view_as(grad) for part, grad in parts])
