"""Valley widths and landscapes on surfaces where they can be written down."""

import math

import pytest
import torch

from grawa.errors import UserError
from grawa.flatness import line, plane, valley
from tests.flatness.surfaces import bowl, mlp, random

ZERO = torch.zeros(3, dtype=torch.float64)


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_borders_of_a_bowl_are_where_they_must_be() -> None:
    # f = 1 + (2 x^2 + 8 y^2) / 2 through noise-free samples; f = 2 at x = 1 and at y = 1/2.
    matrix = torch.diag(vector(2.0, 8.0, 0.0))
    surface = bowl(matrix, ZERO + 0.0)
    shifted = type(surface)(
        model=surface.model,
        loss=lambda model, x, y: 1.0 + torch.mean(model(x)),
        inputs=surface.inputs,
        targets=surface.targets,
    )
    for distance in (0.01, 0.3, 7.0):  # how far away the worker is does not matter
        found = valley(shifted, ZERO, [vector(distance, 0, 0), vector(0, -distance, 0)])
        assert found.border_distances == pytest.approx((1.0, 0.5), rel=1e-5)
        assert found.worker_distances == pytest.approx((distance, distance))
        assert found.mean == pytest.approx(0.75, rel=1e-5)
        assert found.inverse_mean == pytest.approx(1 / 0.75, rel=1e-5)
    wider = valley(shifted, ZERO, [vector(1, 0, 0), vector(0, 1, 0)], kappa=5.0)
    assert wider.border_distances == pytest.approx((2.0, 1.0), rel=1e-5)
    flat = valley(shifted, ZERO, [vector(0, 0, 1.0), vector(1.0, 0, 0)])
    assert flat.border_distances[0] == math.inf
    assert not flat.inverse_mean


def test_a_network_reaches_kappa_times_the_loss_at_its_borders() -> None:
    surface = mlp()
    center = surface.position()
    workers = [center + 0.1 * random(len(center), seed=i) for i in range(3)]
    found = valley(surface, center, workers, kappa=1.5)
    assert found.center_loss == pytest.approx(surface.value(), rel=1e-12)
    for worker, border in zip(workers, found.border_distances, strict=True):
        unit = (worker - center) / (worker - center).norm()
        assert surface.at(center + border * unit) == pytest.approx(1.5 * surface.value(), rel=1e-4)
        inner = [surface.at(center + share * border * unit) for share in (0.25, 0.5, 0.75, 0.99)]
        assert max(inner) < 1.5 * surface.value()


def test_workers_on_the_center_have_no_valley() -> None:
    surface = bowl(torch.eye(3, dtype=torch.float64), ZERO + 1.0)
    with pytest.raises(UserError, match="all workers differ from the center"):
        valley(surface, ZERO, [vector(1, 0, 0), ZERO])
    with pytest.raises(UserError, match="all workers differ from the center"):
        valley(surface, ZERO, [])
    with pytest.raises(UserError, match=r"kappa must be larger than 1, got 1\.0"):
        valley(surface, ZERO, [vector(1, 0, 0)], kappa=1.0)


def test_a_line_through_a_bowl_is_a_parabola() -> None:
    surface = bowl(torch.diag(vector(2.0, 4.0, 0.0)), ZERO + 0.0)
    found = line(surface, vector(1, 0, 0), vector(3, 0, 0), points=5, beyond=0.5)
    torch.testing.assert_close(found.shares, vector(-0.5, 0.0, 0.5, 1.0, 1.5))
    torch.testing.assert_close(found.losses, vector(0, 1, 2, 3, 4).square())
    assert found.distance == pytest.approx(2.0)


def test_a_plane_shows_center_and_workers_where_they_are() -> None:
    surface = bowl(torch.diag(vector(2.0, 4.0, 0.0)), ZERO + 0.0)
    center = vector(0.5, 0.5, 0.0)
    offsets = [vector(4, 0, 0), vector(-2, 0, 0), vector(0, 1, 0), vector(0, -2, 0)]
    ticks: list[int] = []
    found = plane(
        surface,
        center,
        [center + o for o in offsets],
        points=7,
        after_point=lambda: ticks.append(1),
    )
    assert len(ticks) == 49
    expected = torch.tensor([[4, 0], [-2, 0], [0, -1], [0, 2]], dtype=torch.float64)
    torch.testing.assert_close(found.workers, expected)  # the second axis points to the farthest
    torch.testing.assert_close(found.distances, vector(4, 2, 1, 2))
    torch.testing.assert_close(found.off_plane, vector(0, 0, 0, 0))
    assert found.share == pytest.approx(1.0)
    x, y = torch.meshgrid(found.x, found.y, indexing="xy")
    heights = (0.5 + x) ** 2 + 2.0 * (0.5 - y) ** 2
    torch.testing.assert_close(found.losses, heights)


def test_what_does_not_lie_in_the_plane_is_said() -> None:
    surface = bowl(torch.eye(3, dtype=torch.float64), ZERO + 0.0)
    found = plane(surface, ZERO, [vector(3, 0, 0), vector(0, 2, 0), vector(0, 0, 1)], points=2)
    torch.testing.assert_close(found.off_plane, vector(0, 0, 1))
    assert found.share == pytest.approx(13 / 14)


@pytest.mark.parametrize("workers", [[(1, 0, 0)], [(1, 0, 0), (-2, 0, 0)], [(0, 0, 0)] * 3])
def test_a_plane_needs_workers_in_two_directions(workers: list[tuple[float, ...]]) -> None:
    surface = bowl(torch.eye(3, dtype=torch.float64), ZERO + 0.0)
    with pytest.raises(UserError, match="workers in two directions from the center"):
        plane(surface, ZERO, [vector(*worker) for worker in workers])
