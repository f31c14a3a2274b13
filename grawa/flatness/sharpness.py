"""Sharpness without second derivatives: the gradient's norm, and how far the loss can be raised."""

from dataclasses import replace

import torch
from torch import Tensor

from grawa.errors import UserError
from grawa.flatness.surface import Surface


def gradient_norm(surface: Surface) -> float:
    """The L2 norm of the loss's gradient, over all parameters together."""
    return float(surface.gradient().norm())


def sam_sharpness(surface: Surface, radius: float, steps: int = 1) -> float:
    """How far the loss rises within a ball around the model, by gradient ascent.

        max_k L(x + d_k) - L(x),   d_k = P(d_(k-1) + s g / |g|),   d_0 = 0
        g = grad L(x + d_(k-1))

    P shortens what is longer than the radius. With one step, s is the radius: this is the ascent of
    SAM. With more, s is twice the radius over their number, so that the border can be reached and
    walked along. Where the gradient is exactly zero there is no way up to follow, and it ends.
    BatchNorm's statistics stay as they are throughout.

    Args:
        surface: the loss.
        radius: of the ball, L2.
        steps: of ascent.

    Returns:
        The rise, in units of the loss; it can be negative after one step over a ridge.

    Raises:
        UserError: if the radius is not positive, or there is no step.

    Source: Foret et al. (2021), "Sharpness-Aware Minimization for Efficiently Improving
    Generalization", equations 1 and 2 with p = 2.
    """
    if not 0.0 < radius < float("inf") or steps < 1:
        raise UserError(
            f"a sharpness needs a positive radius and at least one step, got {radius} and {steps}"
        )
    surface = replace(surface, recalibrate=False)  # as the gradient sees it
    start = surface.position()
    before = surface.value()
    length = radius if steps == 1 else 2.0 * radius / steps
    away = torch.zeros_like(start)
    rises: list[float] = []
    for _ in range(steps):
        with surface.moved(start + away):
            ascent = _unit(surface.gradient())
        if not ascent.any():
            break
        away = _within(away + length * ascent, radius)
        rises.append(surface.at(start + away) - before)
    return max(rises, default=0.0)


def _unit(vector: Tensor) -> Tensor:
    """A vector of length one, or zero."""
    norm = vector.norm()
    return vector / norm if norm > 0.0 else vector


def _within(vector: Tensor, radius: float) -> Tensor:
    """The vector, shortened to the radius if it is longer."""
    norm = float(vector.norm())
    return vector * (radius / norm) if norm > radius else vector
