"""The loss along a line between two positions, and on the plane through center and workers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grawa.errors import UserError
from grawa.flatness.surface import Surface


def _nothing() -> None:
    """The default callback, which shows no progress."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """The loss along a straight line.

    Args:
        shares: (n,), 0 at its start, 1 at its end.
        losses: (n,).
        distance: between start and end, L2.
    """

    shares: Tensor
    losses: Tensor
    distance: float


def line(
    surface: Surface,
    start: Tensor,
    end: Tensor,
    *,
    points: int = 51,
    beyond: float = 0.5,
    after_point: Callable[[], object] = _nothing,
) -> Line:
    """Evaluates the loss along the line through two positions.

        L(start + s (end - start)),   s from -beyond to 1 + beyond

    Args:
        surface: the loss.
        start: (P,).
        end: (P,).
        points: number of points, evenly spaced.
        beyond: how far the line extends beyond either end, as a fraction of the distance.
        after_point: called after each point.

    Returns:
        The losses.

    Source: Goodfellow et al. (2015), "Qualitatively Characterizing Neural Network Optimization
    Problems", section 2.
    """
    shares = torch.linspace(-beyond, 1.0 + beyond, points, dtype=torch.float64)
    losses = torch.zeros_like(shares)
    for i, share in enumerate(shares.tolist()):
        losses[i] = surface.at(torch.lerp(start, end, share))
        after_point()
    return Line(shares=shares, losses=losses, distance=float((end - start).norm()))


@dataclass(frozen=True, kw_only=True)
class Plane:
    """The loss on a plane through the center, which is at (0, 0).

    Args:
        x: (n,), distances from the center along the first direction, L2.
        y: (n,), along the second.
        losses: (n, n), a row for each y.
        workers: (N, 2), the workers' projections onto the plane.
        distances: (N,), of the workers from the center.
        off_plane: (N,), of the workers from the plane.
        share: the fraction of the sum of squared distances that lies in the plane.
    """

    x: Tensor
    y: Tensor
    losses: Tensor
    workers: Tensor
    distances: Tensor
    off_plane: Tensor
    share: float


def plane(
    surface: Surface,
    center: Tensor,
    workers: Sequence[Tensor],
    *,
    points: int = 25,
    margin: float = 0.4,
    after_point: Callable[[], object] = _nothing,
) -> Plane:
    """Evaluates the loss on the plane through the center that fits the workers best.

    The plane is spanned by the first two principal directions of workers minus center. These are
    orthonormal, so distances in the plane are distances between parameters. The loss at a worker's
    projection is the worker's own loss only if the worker lies in the plane: `off_plane` is its
    distance from the plane. If all workers lie on one line with the center, a `UserError` is
    raised.

    Args:
        surface: the loss.
        center: (P,).
        workers: N tensors (P,).
        points: number of points on each side of the grid.
        margin: how far the grid extends beyond center and workers, as a fraction of their extent.
        after_point: called after each point.

    Returns:
        Losses and projections.
    """
    offsets = torch.stack(list(workers)) - center  # (N, P)
    directions = _principal(offsets)
    inside = offsets @ directions.T  # (N, 2)
    squares = offsets.square().sum(dim=1)
    x, y = (_grid(inside[:, i], points, margin) for i in range(2))
    losses = torch.zeros(points, points, dtype=torch.float64)
    for i, up in enumerate(y.tolist()):
        for j, right in enumerate(x.tolist()):
            losses[i, j] = surface.at(center + right * directions[0] + up * directions[1])
            after_point()
    return Plane(
        x=x,
        y=y,
        losses=losses,
        workers=inside,
        distances=squares.sqrt(),
        off_plane=(squares - inside.square().sum(dim=1)).clamp(min=0.0).sqrt(),
        share=float(inside.square().sum() / squares.sum()),
    )


def _principal(offsets: Tensor) -> Tensor:
    """The first two principal directions of (N, P), (2, P), signed toward the farthest worker."""
    _, sizes, directions = torch.linalg.svd(offsets, full_matrices=False)
    if len(sizes) < 2 or not float(sizes[1]) > 1e-6 * float(sizes[0]):
        raise UserError(
            f"a plane needs workers in two directions from the center, but all {len(offsets)} "
            "workers lie on one line with it"
        )
    first = directions[:2]
    projected = offsets @ first.T
    farthest = projected.abs().argmax(dim=0)
    signs: Tensor = projected.gather(0, farthest.unsqueeze(0)).sign()
    return torch.mul(first, signs.T)


def _grid(values: Tensor, points: int, margin: float) -> Tensor:
    """Evenly spaced points over the range of these values and zero, with a margin."""
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    room = margin * (high - low)
    return torch.linspace(low - room, high + room, points, dtype=torch.float64)
