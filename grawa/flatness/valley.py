"""The width of the workers' valley: how far the loss stays low from the center to each worker."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grawa.errors import UserError
from grawa.flatness.surface import Surface

_GROWTH = 1.25
"""Ratio of each distance that is tried to the one before; a narrower rise may be missed."""

_NEAREST = 1 / 16
"""The first distance that is tried, divided by the worker's distance."""

_FARTHEST = 1024.0
"""The last distance that is tried, divided by the worker's distance."""

_HALVINGS = 20
"""Bisection steps, which find the border to a millionth of its distance."""


@dataclass(frozen=True, kw_only=True)
class Valley:
    """The width of a valley along the lines from the center through the workers.

    Args:
        kappa: the border is where the loss is this many times the center's.
        center_loss: the loss at the center.
        worker_distances: (N,), L2, of the workers from the center.
        border_distances: (N,), of the borders from the center; infinite if the loss stays below.
    """

    kappa: float
    center_loss: float
    worker_distances: tuple[float, ...]
    border_distances: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean valley: the mean distance of the borders."""
        return sum(self.border_distances) / len(self.border_distances)

    @property
    def inverse_mean(self) -> float:
        """The inverse mean valley, a sharpness: large in narrow valleys."""
        return 1.0 / self.mean


def valley(
    surface: Surface, center: Tensor, workers: Sequence[Tensor], kappa: float = 2.0
) -> Valley:
    """Finds on the line from the center through each worker where the loss has grown by a factor.

        u_i = (x_i - x_C) / |x_i - x_C|
        border_i = the first r > 0 with L(x_C + r u_i) >= kappa L(x_C)
        inverse mean valley = 1 / mean_i border_i

    Args:
        surface: the loss.
        center: (P,).
        workers: N tensors (P,).
        kappa: larger than 1.

    Returns:
        The distances.

    Raises:
        UserError: if there is no worker, a worker equals the center, so that there is no line, or
            the center's loss is not positive.

    Deviation:
        We could read only the paper's abstract, which names the measure. So three things are ours:
        the border as a factor of the center's loss, with kappa = 2; the inverse of the mean (not
        the mean of inverses); and the search (distances that grow by a quarter, at most 1,024 times
        the worker's, then bisection). The paper's center is the workers' mean; here it is an
        argument, the consensus in `grawa flatness`. If the loss is near zero, a factor of it makes
        every valley narrow: compare models with similar training losses.

    Source: Dimlioglu and Choromanska (2025), "Communication-Efficient Distributed Training for
    Collaborative Flat Optima Recovery in Deep Learning", arXiv 2507.20424, the inverse mean valley.
    """
    distances = [float((worker - center).norm()) for worker in workers]
    if not distances or not all(distances):
        raise UserError(
            "the valley's width can be measured only if all workers differ from the center, got "
            f"distances {distances}; methods that move workers onto the center have no such width"
        )
    if not kappa > 1.0:
        raise UserError(f"kappa must be larger than 1, got {kappa}")
    center_loss = surface.at(center)
    if not center_loss > 0.0:
        raise UserError(
            f"the center's loss must be positive to define the valley's border, got {center_loss}"
        )
    borders = [
        _border(surface, center, (worker - center) / distance, distance, kappa * center_loss)
        for worker, distance in zip(workers, distances, strict=True)
    ]
    return Valley(
        kappa=kappa,
        center_loss=center_loss,
        worker_distances=tuple(distances),
        border_distances=tuple(borders),
    )


def _border(
    surface: Surface, center: Tensor, direction: Tensor, distance: float, limit: float
) -> float:
    """The first distance at which the loss reaches the limit, or infinity."""

    def is_outside(reach: float) -> bool:
        loss = surface.at(torch.add(center, direction, alpha=reach))
        return not loss < limit  # a loss that is not a number is outside

    inside, outside = 0.0, distance * _NEAREST
    while not is_outside(outside):
        if outside > distance * _FARTHEST:
            return math.inf
        inside, outside = outside, outside * _GROWTH
    for _ in range(_HALVINGS):
        middle = 0.5 * (inside + outside)
        inside, outside = (inside, middle) if is_outside(middle) else (middle, outside)
    return 0.5 * (inside + outside)
