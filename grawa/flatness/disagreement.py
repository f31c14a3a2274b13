"""The disagreement spectrum: in which directions workers differ, and how steep these are."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from grawa.errors import UserError
from grawa.flatness.curvature import top_eigenpairs
from grawa.flatness.surface import Surface
from grawa.math.finite import finite_or_none

_ROUNDING = 1e-6
"""A singular value smaller than this, divided by the largest, is due to rounding: float64 knows the
squares of singular values to some 1e-15 of the largest square."""

_CHUNK = 2**20
"""Parameters of which all gaps are in memory in float64 at once."""


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """The subspace that the workers' gaps span, and how much of other directions lies in it.

    A share is the squared length of a direction's projection on the subspace, divided by the
    squared length of the direction.

    Args:
        rounds: R, in which workers differed.
        gaps: M, of all workers in all of these rounds.
        parameters: P.
        singular_values: of the (M, P) matrix of gaps, largest first, without those due to rounding:
            D values, the dimension of the subspace.
        gradient_share: of the gradient; NaN if that is zero.
        eigenvector_shares: of the Hessian's eigenvectors with the largest eigenvalues; empty if
            they were not computed.
        dominant_share: of the gradient's projection on these eigenvectors; NaN if that is zero, or
            they were not computed.
    """

    rounds: int
    gaps: int
    parameters: int
    singular_values: tuple[float, ...]
    gradient_share: float
    eigenvector_shares: tuple[float, ...]
    dominant_share: float

    @property
    def effective_rank(self) -> float:
        """D if all singular values are equal, near 1 if one is far larger; 0 without gaps.

        It is (sum_j s_j^2)^2 / sum_j s_j^4, the participation ratio of the squares.
        """
        squares = [value * value for value in self.singular_values]
        return sum(squares) ** 2 / sum(s * s for s in squares) if squares else 0.0

    @property
    def chance(self) -> float:
        """The expected share of any direction in a random subspace of the same dimension: D / P."""
        return len(self.singular_values) / self.parameters

    def as_json(self) -> dict[str, Any]:
        """Plain values; numbers that are not finite become `None`."""
        shares = {
            name: finite_or_none(getattr(self, name))
            for name in ("gradient_share", "dominant_share")
        }
        derived = {"effective_rank": self.effective_rank, "chance": self.chance}
        return {**asdict(self), **shares, **derived}


def disagreement(
    surface: Surface, rounds: Sequence[Tensor], *, eigenvalues: int = 3, seed: int = 0
) -> Disagreement:
    """The singular values of the workers' gaps, and what their span holds of steep directions.

        gap_i = x_i - mean_j x_j              of each round; the rows of A, (M, P)
        A = U diag(s) V'                      from the eigenvectors of A A', (M, M)
        share of v = |V' v|^2 / |v|^2

    Which weights a center has does not matter: all differences from it span the same directions.

    Args:
        surface: the loss, at the model whose gradient and Hessian are meant.
        rounds: for each round the workers' parameters, (N, P); before they are averaged. N may
            differ from round to round.
        eigenvalues: number of the Hessian's eigenvectors; with 0 curvlinops is not needed.
        seed: of the Lanczos iteration's first vector.

    Returns:
        The spectrum and the shares.

    Raises:
        UserError: if there is no round, parameters don't fit the surface or are not finite, or
            `eigenvalues` is out of range.

    Deviation:
        We could read only the paper's abstract and the beginning of its introduction. They have the
        idea that gaps show the Hessian's dominant directions, and `dominant_share` as its measure.
        The effective rank, the shares of the whole gradient and of each eigenvector, the comparison
        with chance, and the span of all rounds' gaps with equal weights are ours.

    Source: Dimlioglu, Topollai and Choromanska (2026), "Worker Disagreement Reveals Sharp
    Directions in Local SGD", arXiv 2605.27739.
    """
    gradient = surface.gradient()
    if wrong := _wrong(rounds, len(gradient)):
        raise UserError(wrong)
    columns = [gradient]
    if eigenvalues:
        vectors = top_eigenpairs(surface, eigenvalues, seed)[1]
        columns += [vectors @ (vectors.T @ gradient), *vectors.T]
    targets = torch.stack(columns, dim=1).double()  # (P, T)
    gram, onto = _products(rounds, targets)
    squares, left = torch.linalg.eigh(gram)
    singular = squares.clamp_min(0.0).sqrt()
    real = singular > _ROUNDING * singular[-1]
    inside = (left[:, real].T @ onto) / singular[real].unsqueeze(1)  # V' targets, (D, T)
    shares = (inside.square().sum(dim=0) / targets.square().sum(dim=0)).tolist()
    differ = [bool((workers != workers[0]).any()) for workers in rounds]
    return Disagreement(
        rounds=sum(differ),
        gaps=sum(len(w) for w, differs in zip(rounds, differ, strict=True) if differs),
        parameters=len(gradient),
        singular_values=tuple(singular[real].flip(0).tolist()),
        gradient_share=shares[0],
        eigenvector_shares=tuple(shares[2:]),
        dominant_share=shares[1] if eigenvalues else torch.nan,
    )


def _wrong(rounds: Sequence[Tensor], size: int) -> str | None:
    if not rounds:
        return "the workers' disagreement needs their parameters of at least one round"
    for index, workers in enumerate(rounds):
        if workers.dim() != 2 or workers.shape[1] != size or not len(workers):
            return f"rounds must be of workers x {size} parameters, got {tuple(workers.shape)}"
        if not bool(workers.isfinite().all()):
            return f"the workers' parameters in rounds[{index}] are not all finite"
    return None


def _products(rounds: Sequence[Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
    """A A', (M, M), and A times the targets, (M, T), a part of the columns at a time."""
    gaps = sum(map(len, rounds))
    gram, onto = targets.new_zeros(gaps, gaps), targets.new_zeros(gaps, targets.shape[1])
    for start in range(0, len(targets), _CHUNK):
        place = slice(start, start + _CHUNK)
        parts = [workers[:, place].to(targets) for workers in rounds]
        part = torch.cat([x - x.mean(dim=0) for x in parts])
        gram += part @ part.T
        onto += part @ targets[place]
    return gram, onto
