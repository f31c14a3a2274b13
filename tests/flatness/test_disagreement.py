"""The workers' disagreement against dense decompositions, and where it can be written down."""

import math
import sys

import pytest
import torch
from torch import Tensor

from grawa.errors import UserError
from grawa.flatness import Disagreement, disagreement
from grawa.flatness.hessian import has_curvlinops
from tests.flatness.surfaces import bowl, dense_hessian, mlp, random

needs_curvlinops = pytest.mark.skipif(not has_curvlinops(), reason="the extra [flatness]")

MATRIX = torch.diag(torch.tensor([9.0, 4.0, 1.0, 0.1, 0.0], dtype=torch.float64))
"""Of a bowl whose eigenvectors are the axes, the steepest first."""


def rounds_of(*sizes: int, scale: float = 0.1) -> list[Tensor]:
    """Parameters of so many workers in each round, around different places."""
    return [
        random(87, seed=90 + r) + scale * random(size, 87, seed=r) for r, size in enumerate(sizes)
    ]


def gaps_of(rounds: list[Tensor]) -> Tensor:
    return torch.cat([workers - workers.mean(dim=0) for workers in rounds])


def along(*axes: int, size: int = 5) -> Tensor:
    """A round of two workers for each of some axes, on either side of one place."""
    steps = torch.eye(size, dtype=torch.float64)[list(axes)]
    return 0.3 + torch.cat([steps, -steps])


@needs_curvlinops
def test_spectrum_and_shares_are_those_of_a_dense_svd() -> None:
    surface, rounds = mlp(), rounds_of(4, 3, 4)
    found = disagreement(surface, rounds, eigenvalues=3)
    _, singular, right = torch.linalg.svd(gaps_of(rounds), full_matrices=False)
    assert len(found.singular_values) == 3 + 2 + 3  # the gaps of a round sum to zero
    assert found.singular_values == pytest.approx(singular[:8].tolist(), rel=1e-10)
    span, gradient = right[:8], surface.gradient()
    vectors = torch.linalg.eigh(dense_hessian(surface))[1].flip(1)[:, :3]
    expected = (span @ vectors).square().sum(dim=0)
    assert found.eigenvector_shares == pytest.approx(expected.tolist(), abs=1e-4)
    share = (span @ gradient).norm() ** 2 / gradient.norm() ** 2
    assert found.gradient_share == pytest.approx(float(share), rel=1e-9)
    steep = vectors @ (vectors.T @ gradient)
    share = (span @ steep).norm() ** 2 / steep.norm() ** 2
    assert found.dominant_share == pytest.approx(float(share), rel=1e-3)
    assert (found.rounds, found.gaps, found.parameters) == (3, 11, 87)
    assert found.chance == pytest.approx(8 / 87)


def test_gaps_of_one_size_at_right_angles_use_all_their_dimensions() -> None:
    found = disagreement(bowl(MATRIX, torch.ones(5).double()), [along(0, 2, 3)], eigenvalues=0)
    assert found.singular_values == pytest.approx([math.sqrt(2.0)] * 3)
    assert found.effective_rank == pytest.approx(3.0)
    # The gradient is (9, 4, 1, 0.1, 0).
    assert found.gradient_share == pytest.approx((81 + 1 + 0.01) / (81 + 16 + 1 + 0.01))
    assert found.eigenvector_shares == ()
    assert math.isnan(found.dominant_share)


@needs_curvlinops
def test_workers_that_differ_along_flat_directions_hold_nothing_of_steep_ones() -> None:
    surface = bowl(MATRIX, torch.ones(5).double())
    flat = disagreement(surface, [along(3), along(4)], eigenvalues=2)
    assert flat.eigenvector_shares == pytest.approx((0.0, 0.0), abs=1e-20)
    assert flat.dominant_share == pytest.approx(0.0, abs=1e-20)
    steep = disagreement(surface, [along(0), along(3)], eigenvalues=2)
    assert steep.eigenvector_shares == pytest.approx((1.0, 0.0), abs=1e-12)
    assert steep.dominant_share == pytest.approx(81 / (81 + 16))
    both = disagreement(surface, [along(0), along(1)], eigenvalues=2)
    assert both.dominant_share == pytest.approx(1.0)


def test_workers_on_one_line_have_an_effective_rank_of_one() -> None:
    surface = bowl(MATRIX, torch.ones(5).double())
    line = torch.tensor([[1.0], [2.0], [4.0]]).double() * torch.ones(5).double()
    found = disagreement(surface, [line, 2.0 * line, line + 1.0], eigenvalues=0)
    assert len(found.singular_values) == 1
    assert found.effective_rank == pytest.approx(1.0)


@needs_curvlinops
def test_equal_workers_span_nothing() -> None:
    surface = mlp()
    same = surface.position().expand(4, -1)
    found = disagreement(surface, [same, same], eigenvalues=2)
    assert found == Disagreement(
        rounds=0, gaps=0, parameters=87, singular_values=(), gradient_share=0.0,
        eigenvector_shares=(0.0, 0.0), dominant_share=0.0,
    )  # fmt: skip
    assert (found.effective_rank, found.chance) == (0.0, 0.0)
    with_others = disagreement(surface, [same, *rounds_of(3)], eigenvalues=0)
    alone = disagreement(surface, rounds_of(3), eigenvalues=0)
    assert with_others.singular_values == pytest.approx(alone.singular_values)
    assert (with_others.rounds, with_others.gaps) == (1, 3)


def test_where_there_is_no_gradient_its_share_is_unknown() -> None:
    found = disagreement(bowl(MATRIX, torch.zeros(5).double()), [along(0)], eigenvalues=0)
    assert math.isnan(found.gradient_share)
    assert found.as_json()["gradient_share"] is None


def test_neither_the_place_nor_the_order_nor_the_dtype_of_workers_matters() -> None:
    surface, rounds = mlp(), rounds_of(4, 4)
    found = disagreement(surface, rounds, eigenvalues=0)
    moved = disagreement(surface, [x.flip(0) + 1.0 for x in reversed(rounds)], eigenvalues=0)
    assert moved.singular_values == pytest.approx(found.singular_values, rel=1e-9)
    assert moved.gradient_share == pytest.approx(found.gradient_share, rel=1e-9)
    narrow = disagreement(surface, [x.float() for x in rounds], eigenvalues=0)
    assert narrow.gradient_share == pytest.approx(found.gradient_share, rel=1e-4)


def test_many_parameters_are_taken_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = disagreement(mlp(), rounds_of(4, 4), eigenvalues=0)
    monkeypatch.setattr(sys.modules[disagreement.__module__], "_CHUNK", 10)
    parts = disagreement(mlp(), rounds_of(4, 4), eigenvalues=0)
    assert parts.singular_values == pytest.approx(whole.singular_values, rel=1e-9)
    assert parts.gradient_share == pytest.approx(whole.gradient_share, rel=1e-9)


WRONG = {
    "at least one round": [],
    r"workers x 87 parameters, got \(2, 86\)": [torch.zeros(2, 86)],
    r"workers x 87 parameters, got \(0, 87\)": [torch.zeros(0, 87)],
    r"rounds\[1\] are not all finite": [torch.zeros(2, 87), torch.full((2, 87), math.nan)],
}


@pytest.mark.parametrize("message", WRONG)
def test_rounds_that_can_not_be_used_are_refused(message: str) -> None:
    with pytest.raises(UserError, match=message):
        disagreement(mlp(), WRONG[message], eigenvalues=0)
