"""The largest eigenvalues and the trace of the Hessian of the loss."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse.linalg import eigsh
from torch import Tensor

from grawa.errors import UserError
from grawa.flatness.hessian import hessian_products, import_curvlinops, measuring
from grawa.flatness.surface import Surface
from grawa.seeding import derive_seed

_REPEATS = 8
"""Number of independent estimates of a trace, whose spread gives the standard error."""

_PRODUCTS = 12
"""Hessian products of each estimate. On a trained 64-64-10 network with a trace of 3.3, at 96
products in total, the spread was 0.15 with Hutchinson's estimator and 0.09 with Hutch++."""

_TOLERANCE = 1e-4
"""Relative tolerance of eigenvalues."""


class Estimate(NamedTuple):
    """A number with its standard error, which is zero if it is exact and NaN if it is unknown."""

    value: float
    standard_error: float


def top_eigenvalues(surface: Surface, count: int, seed: int = 0) -> list[Estimate]:
    """The largest eigenvalues of the Hessian, largest first: those of `top_eigenpairs`."""
    return top_eigenpairs(surface, count, seed)[0]


def top_eigenpairs(surface: Surface, count: int, seed: int = 0) -> tuple[list[Estimate], Tensor]:
    """The largest eigenvalues of the Hessian with their eigenvectors, by Lanczos iteration.

        standard error of lambda = std over batches b of (v' H_b v) / sqrt(batches)

    v is the eigenvector, H_b the Hessian of one batch: the standard error says, to first order, how
    much other samples would change the result. For the given samples the eigenvalues are exact to a
    relative 1e-4.

    Args:
        surface: the loss.
        count: number of eigenvalues, at most P.
        seed: of the first vector.

    Returns:
        The eigenvalues, largest first, and the eigenvectors, (P, k); the standard error is NaN if
        there is only one batch.

    Raises:
        UserError: if `count` is out of range, or curvlinops is not installed.
    """
    operator = hessian_products(surface, surface.batches)
    size = operator.shape[0]
    if not 1 <= count <= size:
        raise UserError(f"the number of eigenvalues must lie in [1, {size}], got {count}")
    with measuring(surface):
        values, vectors = _largest(operator, count, seed)
        errors = _over_batches(surface, vectors)
    pairs = zip(values.tolist(), errors.tolist(), strict=True)
    return [Estimate(value, error) for value, error in pairs], vectors


def _largest(operator: Any, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues, (k,), and their vectors, (P, k)."""
    size, like = operator.shape[0], {"dtype": operator.dtype, "device": operator.device}
    if size <= 2 * count + 2:  # too small for Lanczos iteration
        values, vectors = torch.linalg.eigh(operator @ torch.eye(size, **like))
        return values.flip(0)[:count], vectors.flip(1)[:, :count]
    kind = np.float64 if operator.dtype == torch.float64 else np.float32
    start = np.random.default_rng(derive_seed(seed, "lanczos")).standard_normal(size).astype(kind)
    found = eigsh(operator.to_scipy(kind), k=count, which="LA", tol=_TOLERANCE, v0=start)
    order = np.argsort(found[0])[::-1].copy()
    return torch.from_numpy(found[0][order]), torch.from_numpy(found[1][:, order]).to(**like)


def _over_batches(surface: Surface, vectors: Tensor) -> Tensor:
    """The standard error over batches of v' H v, for each column v of (P, k)."""
    products = [hessian_products(surface, [batch]) @ vectors for batch in surface.batches]
    forms = [(vectors * product).sum(dim=0) for product in products]
    if len(forms) < 2:
        return torch.full((vectors.shape[1],), torch.nan)
    return torch.stack(forms).std(dim=0).div(len(forms) ** 0.5)


def hessian_trace(surface: Surface, seed: int = 0, repeats: int = _REPEATS) -> Estimate:
    """The trace of the Hessian, by Hutch++ with random signs.

    Args:
        surface: the loss.
        seed: of the signs.
        repeats: number of independent estimates, each with 12 products with the Hessian; at least
            two.

    Returns:
        Their mean; the standard error is due to the random signs, for the given samples. With few
        parameters the trace is computed exactly, as the sum of the diagonal.

    Raises:
        UserError: if there are fewer than two repeats, or curvlinops is not installed.

    Source: Meyer et al. (2021), "Hutch++: Optimal Stochastic Trace Estimation".
    """
    if repeats < 2:
        raise UserError(f"a trace needs at least 2 repeats, got {repeats}")
    operator, curvlinops = hessian_products(surface, surface.batches), import_curvlinops()
    size = operator.shape[0]
    with measuring(surface):
        if size <= repeats * _PRODUCTS:
            eye = torch.eye(size, dtype=operator.dtype, device=operator.device)
            return Estimate(float((operator @ eye).trace()), 0.0)
        with _seeded(operator.device, derive_seed(seed, "trace")):
            found = [float(curvlinops.hutchpp_trace(operator, _PRODUCTS)) for _ in range(repeats)]
    return mean_of(found)


def mean_of(samples: Sequence[float]) -> Estimate:
    """The mean of two or more independent samples.

    Returns:
        The mean with its standard error.

    >>> mean_of([1.0, 3.0])
    Estimate(value=2.0, standard_error=1.0)
    """
    values = np.asarray(samples)
    return Estimate(float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5))


@contextmanager
def _seeded(device: torch.device, seed: int) -> Generator[None]:
    """Seeds torch's generators, which curvlinops uses, and restores their states afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed(seed)
        yield
