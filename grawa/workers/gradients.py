"""Gradients and norms of the hosted workers' parameters, over all shards where they are sharded."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.linalg import vector_norm

from grawa.errors import UserError
from grawa.math.leaves import Leaves, Rows, Stack
from grawa.math.norms import row_norms
from grawa.scores.protocol import Loss
from grawa.workers.identity import Identity
from grawa.workers.probe import gradients_on, loss_on
from grawa.workers.stack import local, values


class Gradients:
    """The gradients of K hosted models.

    Args:
        models: the models.
        identity: their L parameters that are trained.
        worker_group: the processes that a worker consists of, if its parameters are sharded over
            them (DTensor): norms are taken over all shards.

    Raises:
        UserError: if parameters are sharded, and the processes that hold the shards are not given.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        identity: Identity,
        worker_group: dist.ProcessGroup | None,
    ) -> None:
        self._models, self._names, self._params = models, identity.names, identity.params
        first = self._params[0]
        sharded = any(hasattr(p, "to_local") for p in first)
        if sharded and (worker_group is None or len(models) > 1):
            raise UserError(
                "the model's parameters are sharded: host one worker per process, and pass the "
                "processes that hold its shards as worker_group"
            )
        self._shards = worker_group if sharded else None
        # Neither sharded nor complex: what torch sees of them is what is averaged.
        self._is_plain = not sharded and not any(p.is_complex() for p in first)
        dtypes = {values(p).dtype for p in first}
        wide = torch.float64 if torch.float64 in dtypes else torch.float32
        self._norm_dtype = None if dtypes == {wide} else wide
        self._dtype = self._norm_dtype or wide
        self._on_one_device = len({p.device for p in first}) == 1

    @property
    def device(self) -> torch.device:
        """The first parameter's device; scores are computed there."""
        return self._params[0][0].device

    def have_gradients(self) -> bool:
        """Whether some parameter has a gradient."""
        return any(p.grad is not None for params in self._params for p in params)

    def over_shards(self, squares: Tensor) -> Tensor:
        """Sums of squares over all processes that a sharded worker consists of."""
        if self._shards is not None:
            squares = squares.clone()
            dist.all_reduce(squares, group=self._shards)
        return squares

    def norms(self, parts: Iterable[Tensor]) -> Tensor:
        """L2 norm of each worker over all tensors, and over all shards: see `row_norms`."""
        norms = row_norms(parts)
        return norms if self._shards is None else self.over_shards(norms.square()).sqrt()

    def sizes(self, params: Rows) -> Tensor:
        """L2 norm of each model's parameters, over all shards: (K,); not finite if one is not."""
        if params.blocks:
            norms = [vector_norm(b, dim=1, dtype=self._norm_dtype) for b in params.blocks]
            wide = torch.stack([norm.to(self.device) for norm in norms])
        else:
            wide = self._norms(list(params.values())).unsqueeze(
                1
            )  # K = 1 where there are no blocks
        size: Tensor = vector_norm(wide, dim=0)
        return size if self._shards is None else self.over_shards(size.square()).sqrt()

    def gradient_norms(self, workers: slice = slice(None)) -> Tensor:
        """L2 norm of each parameter's gradient.

        Args:
            workers: hosted workers.

        Returns:
            (K, L); zero where there is no gradient, NaN for the workers that were not asked for.
        """
        norms = self._gradient_norms([p.grad for params in self._params[workers] for p in params])
        if len(norms) < len(self._models):
            known, norms = norms, norms.new_full((len(self._models), len(self._names)), torch.nan)
            norms[workers] = known
        return norms

    def gradient_norms_on(self, batch: Any, loss: Loss) -> Tensor:
        """See `grawa.scores.protocol.Observed`."""
        pairs = zip(self._models, self._params, strict=True)
        grads = [g for model, params in pairs for g in gradients_on(model, params, batch, loss)]
        return self._gradient_norms(grads)

    def losses_on(self, batch: Any, loss: Loss) -> Tensor:
        """See `grawa.scores.protocol.Observed`."""
        pairs = zip(self._models, self._params, strict=True)
        losses = [loss_on(model, params, batch, loss) for model, params in pairs]
        return torch.stack([loss.to(self.device) for loss in losses]).unsqueeze(1)

    def _gradient_norms(self, grads: Sequence[Tensor | None]) -> Tensor:
        """L2 norms, over all shards of a worker: L for each of some workers -> (k, L)."""
        if not self._is_plain or any(grad is not None and grad.is_sparse for grad in grads):
            grads = [None if grad is None else _entries(grad) for grad in grads]
        norms = self._norms(grads)
        norms = norms.view(-1, len(self._names))
        return norms if self._shards is None else self.over_shards(norms.square()).sqrt()

    def clip_gradients(self, norms: Tensor, max_norm: float) -> Tensor:
        """Scales each model's gradients so that their norm is at most `max_norm`.

        Args:
            norms: of the gradients, (K, L).
            max_norm: the largest norm that is left alone.

        Returns:
            The norms of whole models before, (K,).
        """
        totals: Tensor = vector_norm(norms, dim=1)
        factors = (max_norm / (totals + 1e-6)).clamp_max(1.0)  # as in torch's clip_grad_norm_
        for params, factor in zip(self._params, factors, strict=True):
            grads = [p.grad for p in params if p.grad is not None]
            for grad in grads:
                if grad.is_sparse:
                    grad.mul_(factor.to(grad.device))
            grads = [grad for grad in grads if not grad.is_sparse]
            for device, here in _by_device([local(grad) for grad in grads]).items():
                torch._foreach_mul_(here, factor.to(device))
        return totals

    def _norms(self, tensors: Sequence[Tensor | None]) -> Tensor:
        present = [tensor for tensor in tensors if tensor is not None]
        if not present:
            return torch.zeros(len(tensors), device=self.device)
        norms = list(torch._foreach_norm(present, dtype=self._norm_dtype))
        if not self._on_one_device:
            norms = [norm.to(self.device) for norm in norms]
        if len(present) < len(tensors):
            found = iter(norms)
            zero = torch.zeros_like(norms[0])
            norms = [zero if tensor is None else next(found) for tensor in tensors]
        return torch.stack(norms)

    def has_gradient(self) -> Tensor:
        """Which parameters have a gradient: (K, L), bool."""
        return torch.tensor([[p.grad is not None for p in params] for params in self._params])

    def gradients(self) -> Stack:
        """The gradients as a stack, zero where there is none."""
        columns = zip(self._names, zip(*self._params, strict=True), strict=True)
        return {
            name: torch.stack([_grad_or_zero(p) for p in column])
            if len(column) > 1
            else _grad_or_zero(column[0]).unsqueeze(0)
            for name, column in columns
        }

    def zeros(self) -> Tensor:
        """Zeros, (K,), one for each hosted worker, in the dtype of norms."""
        return torch.zeros(len(self._models), device=self.device, dtype=self._dtype)

    def set_gradients(self, mean: Leaves, wanted: Sequence[bool]) -> None:
        """Gives every model the same gradient, for the leaves that are wanted."""
        for params in self._params:
            for parameter, leaf, is_wanted in zip(params, mean.values(), wanted, strict=True):
                if not is_wanted:
                    continue
                if parameter.grad is None or parameter.grad.is_sparse:
                    parameter.grad = torch.empty_like(parameter)
                values(parameter.grad).copy_(leaf)


def _by_device(tensors: Sequence[Tensor]) -> dict[torch.device, list[Tensor]]:
    found: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        found.setdefault(tensor.device, []).append(tensor)
    return found


def _grad_or_zero(parameter: nn.Parameter) -> Tensor:
    grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return grad.to_dense() if grad.is_sparse else values(grad)


def _entries(grad: Tensor) -> Tensor:
    """The entries of a gradient that this process holds."""
    entries = grad.coalesce().values() if grad.is_sparse else grad
    return values(entries)
