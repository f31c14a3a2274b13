"""Eigenvalues and traces against dense Hessians."""

import builtins
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from grawa.errors import UserError
from grawa.flatness import Surface, hessian_trace, top_eigenvalues
from grawa.flatness.hessian import has_curvlinops
from tests.flatness.surfaces import bowl, cnn, dense_hessian, mlp, random, transformer

SURFACES: dict[str, Callable[[], Surface]] = {"mlp": mlp, "cnn": cnn, "transformer": transformer}

every_surface = pytest.mark.parametrize("make", SURFACES.values(), ids=SURFACES)
needs_curvlinops = pytest.mark.skipif(not has_curvlinops(), reason="the extra [flatness]")


def dense(surface: Surface) -> Tensor:
    with sdpa_kernel(SDPBackend.MATH):
        return dense_hessian(surface)


@needs_curvlinops
@every_surface
def test_the_largest_eigenvalues_are_those_of_the_dense_hessian(
    make: Callable[[], Surface],
) -> None:
    surface = make()
    expected = torch.linalg.eigvalsh(dense(surface)).flip(0)[:4]
    found = top_eigenvalues(surface, 4)
    assert [e.value for e in found] == pytest.approx(expected.tolist(), rel=1e-4)


@needs_curvlinops
@every_surface
def test_the_trace_lies_within_four_standard_errors_of_the_dense_one(
    make: Callable[[], Surface],
) -> None:
    surface = make()
    expected = float(dense(surface).trace())
    found = hessian_trace(surface, seed=1, repeats=7)
    assert abs(found.value - expected) <= 4.0 * found.standard_error
    assert 0.0 < found.standard_error < 0.5 * abs(expected)


@needs_curvlinops
def test_the_standard_error_of_a_trace_is_as_large_as_the_spread_over_seeds() -> None:
    surface = mlp()
    found = [hessian_trace(surface, seed=seed, repeats=4) for seed in range(30)]
    spread = float(torch.tensor([e.value for e in found]).std())
    typical = float(torch.tensor([e.standard_error for e in found]).square().mean().sqrt())
    assert 0.6 < typical / spread < 1.6


@needs_curvlinops
def test_the_standard_error_of_an_eigenvalue_is_that_over_batches() -> None:
    surface = mlp()
    _, vectors = torch.linalg.eigh(dense(surface))
    top = vectors[:, -1]
    parts = [
        dense(replace(surface, inputs=inputs, targets=targets))
        for inputs, targets in surface.batches
    ]
    forms = torch.stack([top @ part @ top for part in parts])
    expected = float(forms.std()) / len(parts) ** 0.5
    assert top_eigenvalues(surface, 1)[0].standard_error == pytest.approx(expected, rel=1e-2)


@needs_curvlinops
def test_one_batch_has_no_standard_error() -> None:
    found = top_eigenvalues(replace(mlp(), batch_size=100), 1)[0]
    assert found.standard_error != found.standard_error


@needs_curvlinops
def test_a_bowls_eigenvalues_and_trace_are_exact() -> None:
    matrix = torch.diag(torch.tensor([3.0, -5.0, 1.0, 0.5], dtype=torch.float64))
    surface = bowl(matrix, random(4))
    values = [e.value for e in top_eigenvalues(surface, 4)]
    assert values == pytest.approx([3.0, 1.0, 0.5, -5.0], abs=1e-12)
    trace = hessian_trace(surface)
    assert trace.value == pytest.approx(-0.5, abs=1e-12)
    assert not trace.standard_error


@needs_curvlinops
@every_surface
def test_gradients_change_by_the_hessian(make: Callable[[], Surface]) -> None:
    surface = make()
    here, direction = surface.position(), random(len(make().position()), seed=7)
    step = 1e-7 * direction
    with sdpa_kernel(SDPBackend.MATH):
        with surface.moved(here + step):
            ahead = surface.gradient()
        with surface.moved(here - step):
            change = (ahead - surface.gradient()) / 2e-7
    torch.testing.assert_close(change, dense(surface) @ direction, rtol=1e-4, atol=1e-5)


@needs_curvlinops
def test_a_loss_without_curvature_has_none() -> None:
    surface = replace(mlp(), loss=lambda model, x, y: next(iter(model.parameters())).sum())
    assert hessian_trace(surface) == (0.0, 0.0)


@needs_curvlinops
def test_the_trace_of_few_parameters_weights_batches_by_their_samples() -> None:
    surface = mlp()  # batches of 14, 13 and 13
    found = hessian_trace(surface, repeats=8)
    assert found.value == pytest.approx(float(dense(surface).trace()), rel=1e-12)
    assert not found.standard_error


@needs_curvlinops
def test_measuring_leaves_no_trace() -> None:
    surface = cnn()
    surface.model.train()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    state = {key: value.clone() for key, value in surface.model.state_dict().items()}
    first = (top_eigenvalues(surface, 2), hessian_trace(surface))
    assert all(module.training for module in surface.model.modules())
    assert torch.equal(torch.get_rng_state(), before)
    for key, value in surface.model.state_dict().items():
        assert torch.equal(value, state[key])
    torch.manual_seed(6)
    assert (top_eigenvalues(surface, 2), hessian_trace(surface)) == first


@needs_curvlinops
def test_frozen_parameters_are_not_part_of_the_surface() -> None:
    surface = mlp()
    for parameter in surface.model.get_submodule("0").parameters():
        parameter.requires_grad_(False)
    expected = torch.linalg.eigvalsh(dense(mlp())[63:, 63:]).flip(0)[:2]
    found = top_eigenvalues(surface, 2)
    assert [e.value for e in found] == pytest.approx(expected.tolist(), rel=1e-4)


@needs_curvlinops
@pytest.mark.parametrize("count", [0, 88])
def test_a_number_of_eigenvalues_that_there_is_not_is_refused(count: int) -> None:
    with pytest.raises(UserError, match=rf"eigenvalues must lie in \[1, 87\], got {count}"):
        top_eigenvalues(mlp(), count)


def test_without_curvlinops_one_line_names_the_extra(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "curvlinops", None)
    assert not has_curvlinops()
    with pytest.raises(UserError, match=r"need curvlinops .*: pip install 'grawa\[flatness\]'"):
        hessian_trace(mlp())


@needs_curvlinops
def test_curvlinops_does_not_import_torchvision(monkeypatch: Any) -> None:
    imported = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        assert name.partition(".")[0] != "torchvision"
        return imported(name, *args, **kwargs)

    for name in [n for n in sys.modules if n.partition(".")[0] in ("curvlinops", "backpack")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    assert has_curvlinops()
