"""The hosted workers' models and optimizers, seen as stacks."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.optim import Optimizer

from grawa.errors import UserError
from grawa.math.leaves import Allocate, Leaves, Rows, Stack, private
from grawa.scores.protocol import Loss
from grawa.workers.probe import gradients_on, loss_on
from grawa.workers.stack import host, local


class Replicas:
    """K models with an optimizer each.

    Args:
        models: K models with the same parameters and buffers.
        optimizers: K optimizers; each holds all of its model's trainable parameters, and nothing
            else.
        worker_group: the processes that a worker is made of, if its parameters are sharded over
            them (DTensor): gradient norms are taken over all shards.
        allocate: makes the memory that the parameters are moved to.

    Attributes:
        params: what is trained and averaged, name -> (K, *shape): the parameters that the
            optimizers hold. A parameter that two modules share is there once.

    Raises:
        UserError: if models and optimizers don't fit each other.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        optimizers: Sequence[Optimizer],
        worker_group: dist.ProcessGroup | None = None,
        allocate: Allocate = private,
    ) -> None:
        if len(models) != len(optimizers) or not models:
            raise UserError(
                f"each model needs an optimizer, got {len(models)} models and "
                f"{len(optimizers)} optimizers"
            )
        self.models = list(models)
        self.optimizers = list(optimizers)
        forms = {fingerprint(model) for model in models}
        if len(forms) > 1:
            raise UserError("the hosted models differ in names, shapes or dtypes of parameters")
        held = [held_names(m, o) for m, o in zip(models, optimizers, strict=True)]
        names = held[0]
        self.params = host(models, names, together=True, allocate=allocate)
        self._hosted_buffers: dict[tuple[str, ...], Rows] = {}
        self._on_one_device = len({rows.device for rows in self.params.values()}) == 1
        self._params = [
            [dict(model.named_parameters())[name] for name in names] for model in models
        ]
        sharded = any(hasattr(p, "to_local") for p in self._params[0])
        if sharded and (worker_group is None or len(models) > 1):
            raise UserError(
                "the model's parameters are sharded: host one worker per process, and pass the "
                "processes that hold its shards as worker_group"
            )
        self._shards = worker_group if sharded else None
        dtypes = {rows.dtype for rows in self.params.values()}
        wide = torch.float64 if torch.float64 in dtypes else torch.float32
        self._norm_dtype = None if dtypes == {wide} else wide

    @property
    def names(self) -> list[str]:
        """The leaves' names, in order."""
        return list(self.params)

    @property
    def device(self) -> torch.device:
        """Where the first parameter lives; scores are computed there."""
        return self._params[0][0].device

    def check_unmoved(self) -> None:
        """Notices parameters that were replaced, or moved to other memory.

        Raises:
            UserError: naming the first such parameter.
        """
        for k, model in enumerate(self.models):
            current = dict(model.named_parameters())
            for name, rows in self.params.items():
                if name not in current or local(current[name]).data_ptr() != rows[k].data_ptr():
                    raise UserError(
                        f"parameter {name!r} was moved or replaced after the Averager was made; "
                        "move, convert and wrap the model first, then make its optimizer and the "
                        "Averager"
                    )

    def sizes(self, *, with_buffers: bool = False) -> Tensor:
        """L2 norm of each model's parameters.

        Args:
            with_buffers: whether buffers must be finite too; they don't count otherwise.

        Returns:
            (K,); not finite if a parameter, or a buffer, is not.
        """
        if self.params.blocks:
            norms = [vector_norm(b, dim=1, dtype=self._norm_dtype) for b in self.params.blocks]
            wide = torch.stack([norm.to(self.device) for norm in norms])
        else:
            wide = self._norms([rows[0] for rows in self.params.values()]).unsqueeze(1)
        size: Tensor = vector_norm(wide, dim=0)
        buffers = self.float_buffers() if with_buffers else Rows()
        if not buffers:
            return size
        per_worker = torch._foreach_norm([row for rows in buffers.values() for row in rows])
        norms = [norm.to(size) for norm in per_worker]
        return size + 0.0 * torch.stack(norms).view(-1, len(size)).sum(dim=0)

    def gradient_norms(self, who: slice = slice(None)) -> Tensor:
        """L2 norm of each parameter's gradient.

        Args:
            who: hosted workers.

        Returns:
            (K, L); zero where there is no gradient, NaN for other workers.
        """
        norms = self._gradient_norms([p.grad for params in self._params[who] for p in params])
        if len(norms) < len(self.models):
            some, norms = norms, norms.new_full((len(self.models), len(self.names)), torch.nan)
            norms[who] = some
        return norms

    def gradient_norms_on(self, batch: Any, loss: Loss) -> Tensor:
        """See `grawa.scores.protocol.Observed`."""
        pairs = zip(self.models, self._params, strict=True)
        grads = [g for model, params in pairs for g in gradients_on(model, params, batch, loss)]
        return self._gradient_norms(grads)

    def losses_on(self, batch: Any, loss: Loss) -> Tensor:
        """See `grawa.scores.protocol.Observed`."""
        pairs = zip(self.models, self._params, strict=True)
        losses = [loss_on(model, params, batch, loss) for model, params in pairs]
        return torch.stack([loss.to(self.device) for loss in losses]).unsqueeze(1)

    def _gradient_norms(self, grads: Sequence[Tensor | None]) -> Tensor:
        """L2 norms, over all shards of a worker: L for each of some workers -> (k, L)."""
        norms = self._norms([None if grad is None else _values(grad) for grad in grads])
        if self._shards is not None:
            squares = norms.square()
            dist.all_reduce(squares, group=self._shards)
            norms = squares.sqrt()
        return norms.view(-1, len(self.names))

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
        columns = zip(self.names, zip(*self._params, strict=True), strict=True)
        return {
            name: torch.stack([_grad_or_zero(p) for p in column])
            if len(column) > 1
            else _grad_or_zero(column[0]).unsqueeze(0)
            for name, column in columns
        }

    def zeros(self) -> Tensor:
        """A number per hosted worker, (K,), as wide as the norms are."""
        dtype = next(iter(self.params.values())).dtype
        return torch.zeros(len(self.models), device=self.device, dtype=self._norm_dtype or dtype)

    def set_gradients(self, mean: Leaves, wanted: Sequence[bool]) -> None:
        """Gives every model the same gradient, for the leaves that are wanted."""
        for params in self._params:
            for parameter, leaf, take in zip(params, mean.values(), wanted, strict=True):
                if not take:
                    continue
                if parameter.grad is None or parameter.grad.is_sparse:
                    parameter.grad = leaf.clone()
                else:
                    local(parameter.grad).copy_(leaf)

    def lrs(self) -> Tensor:
        """The hosted workers' learning rates, of their optimizers' first groups: (K,), float64."""
        rates = [float(optimizer.param_groups[0]["lr"]) for optimizer in self.optimizers]
        return torch.tensor(rates, dtype=torch.float64)

    def state_dict_of(self, leaves: Mapping[str, Tensor]) -> dict[str, Any]:
        """The first model's state dict, copied, with these leaves in place of its own."""
        model = self.models[0]
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        state: dict[str, Any] = {}
        for key, value in model.state_dict(keep_vars=True).items():
            if not isinstance(value, Tensor):  # a module's extra state
                state[key] = deepcopy(value)
                continue
            state[key] = value.detach().clone()
            if (name := names.get(id(value), "")) in leaves:
                local(state[key]).copy_(leaves[name])
        return state

    def others(self) -> Rows:
        """The frozen parameters that no optimizer holds: the same everywhere from the start."""
        names = [n for n, _ in self.models[0].named_parameters() if n not in self.params]
        return host(self.models, names)

    def float_buffers(self) -> Rows:
        """The floating-point buffers, as a stack."""
        return self._buffers_that(torch.is_floating_point)

    def other_buffers(self) -> Rows:
        """All other buffers, as a stack."""
        return self._buffers_that(lambda buffer: not torch.is_floating_point(buffer))

    def _buffers_that(self, wanted: Callable[[Tensor], bool]) -> Rows:
        names = [name for name, buffer in self.models[0].named_buffers() if wanted(buffer)]
        found = self._hosted_buffers.get(tuple(names), Rows())
        current = [dict(model.named_buffers()) for model in self.models]
        if not found or any(
            table[name].data_ptr() != rows[k].data_ptr()
            for name, rows in found.items()
            for k, table in enumerate(current)
        ):  # a module may put a new buffer in an old one's place
            found = self._hosted_buffers[tuple(names)] = host(self.models, names)
        return found


def _grad_or_zero(parameter: nn.Parameter) -> Tensor:
    grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return grad.to_dense() if grad.is_sparse else local(grad)


def _values(grad: Tensor) -> Tensor:
    """The entries of a gradient that this process holds."""
    values = grad.coalesce().values() if grad.is_sparse else local(grad)
    return torch.view_as_real(values) if values.is_complex() else values


def held_names(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """The names of the model's parameters that its optimizer holds.

    Returns:
        The names, in the model's order.

    Raises:
        UserError: if the optimizer holds something else, or not every trainable parameter.
    """
    named = dict(model.named_parameters())
    if not named:
        raise UserError("the model has no parameters, so there is nothing to average")
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missing = [name for name, p in named.items() if p.requires_grad and id(p) not in held]
    if missing or not held <= {id(p) for p in named.values()}:
        what = (
            f"does not hold the model's parameter {missing[0]!r}"
            if missing
            else "holds parameters that are not the model's"
        )
        raise UserError(
            f"the optimizer {what}; make the optimizer from this model's parameters(), after the "
            "model is built, and freeze (requires_grad=False) what is not to be trained"
        )
    return [name for name, p in named.items() if id(p) in held]


def fingerprint(model: nn.Module) -> str:
    """A digest of the names, shapes, strides and dtypes of a model's parameters and buffers."""
    named: Mapping[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    lines = [f"{n} {tuple(t.shape)} {t.stride()} {t.dtype}" for n, t in named.items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
