"""Probes: what hosted models make of a batch that all workers share."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from grawa.modes import evaluating
from grawa.workers.replicas import held_names

Batch = TypeVar("Batch")


class GradientProbe(Generic[Batch]):
    """Computes gradient norms on one batch and leaves no trace.

    The model runs in eval mode, so that BatchNorm and dropout change nothing; `.grad`, buffers,
    modes and the random number generators are as they were afterwards.

    Args:
        model: the model, or the K hosted models.
        optimizer: its optimizer, or theirs.
        batch: makes the i-th probe batch. It must be the same on every worker, so draw it from
            all the training data with a generator seeded by i; 64 samples or more.
        loss: the loss of a model on a batch, a scalar.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> probe = GradientProbe(model, optimizer, lambda i: torch.ones(1, 2), lambda m, x: m(x).sum())
    >>> probe(0)
    tensor([[1.4142]])
    """

    def __init__(
        self,
        model: nn.Module | Sequence[nn.Module],
        optimizer: Optimizer | Sequence[Optimizer],
        batch: Callable[[int], Batch],
        loss: Callable[[nn.Module, Batch], Tensor],
    ) -> None:
        self._models = _listed(model)
        first = optimizer if isinstance(optimizer, Optimizer) else optimizer[0]
        self._names = held_names(self._models[0], first)
        self._batch = batch
        self._loss = loss

    def __call__(self, index: int) -> Tensor:
        """The norms on the `index`-th probe batch, (K, L); zero for what has no gradient."""
        batch = self._batch(index)
        return torch.stack([self._norms(model, batch) for model in self._models])

    def _norms(self, model: nn.Module, batch: Batch) -> Tensor:
        named = dict(model.named_parameters())
        params = [named[name] for name in self._names]
        trained = [p for p in params if p.requires_grad]
        with evaluating(model), torch.enable_grad(), _same_random_numbers(params[0].device):
            grads = torch.autograd.grad(self._loss(model, batch), trained, allow_unused=True)
        by_id = {id(p): g for p, g in zip(trained, grads, strict=True) if g is not None}
        found = dict(zip(by_id, torch._foreach_norm(list(by_id.values())), strict=True))
        zero = torch.zeros((), device=params[0].device, dtype=params[0].dtype)
        return torch.stack([found.get(id(p), zero).to(zero) for p in params])


class LossProbe(Generic[Batch]):
    """Computes losses on one batch and leaves no trace; see `GradientProbe`.

    Args:
        model: the model, or the K hosted models.
        batch: makes the i-th probe batch, the same on every worker.
        loss: the loss of a model on a batch, a scalar.

    >>> probe = LossProbe(nn.Identity(), lambda i: torch.tensor(3.0 + i), lambda m, x: m(x))
    >>> probe(1)
    tensor([[4.]])
    """

    def __init__(
        self,
        model: nn.Module | Sequence[nn.Module],
        batch: Callable[[int], Batch],
        loss: Callable[[nn.Module, Batch], Tensor],
    ) -> None:
        self._models = _listed(model)
        self._batch = batch
        self._loss = loss

    def __call__(self, index: int) -> Tensor:
        """The losses on the `index`-th probe batch, (K, 1)."""
        batch = self._batch(index)
        return torch.stack([self._loss_of(model, batch) for model in self._models]).unsqueeze(1)

    def _loss_of(self, model: nn.Module, batch: Batch) -> Tensor:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        with evaluating(model), torch.no_grad(), _same_random_numbers(device):
            return self._loss(model, batch)


def _listed(model: nn.Module | Sequence[nn.Module]) -> list[nn.Module]:
    return [model] if isinstance(model, nn.Module) else list(model)


@contextmanager
def _same_random_numbers(device: torch.device) -> Generator[None]:
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        yield
