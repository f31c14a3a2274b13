"""The Hessian of the loss as an operator that multiplies vectors, with curvlinops."""

import importlib
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from grawa.errors import UserError
from grawa.flatness.surface import Surface
from grawa.modes import evaluating


def hessian_products(surface: Surface, batches: Sequence[tuple[Tensor, Tensor]]) -> Any:
    """The Hessian as a linear operator of curvlinops, `operator @ vectors`, (P, k) -> (P, k).

    Deviation:
        curvlinops differentiates gradients in forward mode, for many vectors at once (`vmap` of
        `jvp`). With torch 2.13 the result is silently wrong for a LayerNorm after another layer:
        the matrix is not symmetric, and differs from differences of gradients. Therefore products
        are computed by differentiating backward twice, for all vectors at once.

    Returns:
        A `curvlinops.HessianLinearOperator`.
    """
    params = surface.parameters

    def products(_: Any, inputs: Tensor, targets: Tensor, columns: list[Tensor]) -> list[Tensor]:
        with torch.enable_grad():
            loss = surface.loss(surface.model, inputs, targets)
            grads = torch.autograd.grad(loss, params, create_graph=True, materialize_grads=True)
        rows = [column.movedim(-1, 0) for column in columns]
        curved = [(g, row) for g, row in zip(grads, rows, strict=True) if g.requires_grad]
        if not curved:  # a loss without curvature
            return [torch.zeros_like(column) for column in columns]
        found = torch.autograd.grad(
            [g for g, _ in curved],
            params,
            [row for _, row in curved],
            is_grads_batched=True,
            allow_unused=True,
        )
        return [
            torch.zeros_like(column) if row is None else row.movedim(0, -1)
            for row, column in zip(found, columns, strict=True)
        ]

    base = import_curvlinops().HessianLinearOperator
    kind = type("Hessian", (base,), {"_matmat_batch": products})
    mean = SimpleNamespace(reduction="mean")
    return kind(surface.model, mean, params, list(batches), check_deterministic=False)


def import_curvlinops() -> Any:
    """Imports curvlinops, from the extra [flatness]; this does not import torchvision.

    Returns:
        The module.

    Raises:
        UserError: if it is not installed.
    """
    try:
        with warnings.catch_warnings():
            # A package that it imports uses TorchScript, for which torch warns.
            warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
            return importlib.import_module("curvlinops")
    except ImportError as error:
        raise UserError(
            f"eigenvalues and traces need curvlinops ({error}): pip install 'grawa[flatness]', or "
            "leave them out with 0 eigenvalues"
        ) from None


def has_curvlinops() -> bool:
    """Whether eigenvalues and traces can be computed."""
    try:
        import_curvlinops()
    except UserError:
        return False
    return True


@contextmanager
def measuring(surface: Surface) -> Generator[None]:
    """Eval mode, and attention by plain products, since other kernels have no second derivative."""
    with evaluating(surface.model), sdpa_kernel(SDPBackend.MATH):
        yield
