"""Sharpness without second derivatives: the gradient's norm, and the loss's largest rise nearby."""

from dataclasses import replace

import torch
from torch import Tensor

from grawa.errors import UserError
from grawa.flatness.surface import Surface


def gradient_norm(surface: Surface) -> float:
    """The L2 norm of the loss's gradient, over all parameters together."""
    return float(surface.gradient().norm())


def sam_sharpness(surface: Surface, radius: float, steps: int = 1) -> float:
    """The largest rise of the loss within a ball around the model, found by gradient ascent.

        max_k L(x + d_k) - L(x),   d_k = P(d_(k-1) + s g / |g|),   d_0 = 0
        g = grad L(x + d_(k-1))

    P projects onto the ball. With one step, s is the radius, which is the ascent of SAM. With more,
    s is twice the radius divided by the number of steps, so that the ascent can reach the border
    and continue along it. It ends early where the gradient is exactly zero. BatchNorm's statistics
    are not changed.

    Args:
        surface: the loss.
        radius: of the ball, L2.
        steps: number of ascent steps.

    Returns:
        The rise, in units of the loss; negative if a single step overshoots.

    Raises:
        UserError: if the radius is not positive, or there are no steps.

    Source: Foret et al. (2021), "Sharpness-Aware Minimization for Efficiently Improving
    Generalization", equations 1 and 2 with p = 2.
    """
    if not 0.0 < radius < float("inf") or steps < 1:
        raise UserError(
            f"sharpness needs a positive radius and at least one step, got {radius} and {steps}"
        )
    surface = replace(surface, recalibrate=False)  # the same function that the gradient is of
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
