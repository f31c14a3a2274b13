"""The hosted workers' models and optimizers, with their parameters as stacks."""

import hashlib
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.optim import Optimizer

from grawa.errors import UserError
from grawa.math.leaves import Leaves, Rows, Stack
from grawa.math.norms import row_norms
from grawa.scores.protocol import Loss
from grawa.workers.buffers import Buffers, persistent_names
from grawa.workers.checks import check_averageable, check_model, check_no_weights_in_state
from grawa.workers.probe import gradients_on, loss_on
from grawa.workers.stack import is_strided, local, stack_of, values


class Replicas:
    """K models with their optimizers.

    Args:
        models: K models with the same parameters and buffers.
        optimizers: the optimizers of each; together they hold all trainable parameters of their
            model, and nothing else.
        worker_group: the processes that a worker consists of, if its parameters are sharded over
            them (DTensor): norms are taken over all shards.

    Attributes:
        params: what is trained and averaged, name -> (K, *shape): the parameters that the
            optimizers hold. A parameter that two modules share occurs once. Complex ones occur as
            real and imaginary parts, (K, *shape, 2).
        buffers: the models' persistent buffers.

    Raises:
        UserError: if models and optimizers don't fit each other.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        optimizers: Sequence[Sequence[Optimizer]],
        worker_group: dist.ProcessGroup | None = None,
    ) -> None:
        if len(models) != len(optimizers) or not models:
            raise UserError(
                f"each model needs an optimizer, got {len(models)} models and "
                f"{len(optimizers)} optimizers"
            )
        self.models = list(models)
        self.optimizers = [list(of_one_model) for of_one_model in optimizers]
        for model in models:
            check_model(model)
        held = [held_names(m, o) for m, o in zip(self.models, self.optimizers, strict=True)]
        forms = {fingerprint(m, h) for m, h in zip(models, held, strict=True)}
        if len(forms) > 1:
            raise UserError("the hosted models differ in names, shapes or dtypes of parameters")
        self.names = held[0]
        self._params = [_picked(model, self.names) for model in models]
        check_averageable(dict(zip(self.names, self._params[0], strict=True)))
        self._check_sharding(worker_group)
        self._held = [{id(p) for p in params} for params in self._params]
        self._forms = [_form(p) for p in self._params[0]]
        # Neither sharded nor complex: what torch sees of them is what is averaged.
        self._is_plain = not any(hasattr(p, "to_local") or p.is_complex() for p in self._params[0])
        self._stack_params()
        self.buffers = Buffers(self.models)
        dtypes = {rows.dtype for rows in self.params.values()}
        wide = torch.float64 if torch.float64 in dtypes else torch.float32
        self._norm_dtype = None if dtypes == {wide} else wide
        self._on_one_device = len({rows.device for rows in self.params.values()}) == 1

    def _check_sharding(self, worker_group: dist.ProcessGroup | None) -> None:
        sharded = any(hasattr(p, "to_local") for p in self._params[0])
        if sharded and (worker_group is None or len(self.models) > 1):
            raise UserError(
                "the model's parameters are sharded: host one worker per process, and pass the "
                "processes that hold its shards as worker_group"
            )
        self._shards = worker_group if sharded else None

    def _stack_params(self) -> None:
        tables: list[dict[str, Tensor]] = [
            dict(zip(self.names, params, strict=True)) for params in self._params
        ]
        self.params = stack_of(tables, self.names)
        self._addresses = self._current_addresses()

    def _current_addresses(self) -> list[int]:
        if self._is_plain:
            return [p.data_ptr() for params in self._params for p in params]
        return [local(p).data_ptr() for params in self._params for p in params]

    @property
    def device(self) -> torch.device:
        """The first parameter's device; scores are computed there."""
        return next(iter(self.params.values())).device

    def follow(self) -> bool:
        """Makes `params` anew if a module has moved parameters in memory, as `nn.LSTM` does.

        Returns:
            Whether that was the case.
        """
        if self._current_addresses() == self._addresses:
            return False
        self._check_forms()
        self._stack_params()
        return True

    def _check_forms(self) -> None:
        for params in self._params:
            for name, parameter, form in zip(self.names, params, self._forms, strict=True):
                if _form(parameter) != form:
                    raise UserError(_moved(name))

    def check(self) -> None:
        """Refuses parameters that were replaced, converted, or given to an optimizer later.

        Raises:
            UserError: naming the first such parameter.
        """
        for model, params, held in zip(self.models, self._params, self._held, strict=True):
            current = dict(model.named_parameters())
            for name, parameter in zip(self.names, params, strict=True):
                if current.get(name) is not parameter:
                    raise UserError(_moved(name))
            self._check_held(current, held)
        self._check_forms()

    def _check_held(self, current: Mapping[str, nn.Parameter], held: set[int]) -> None:
        now = {id(p) for k in range(len(self.models)) for p in self._optimized(k)}
        for name, parameter in current.items():
            if id(parameter) in now - held and id(parameter) not in set().union(*self._held):
                raise UserError(
                    f"parameter {name!r} was given to the optimizer after the Averager was made, "
                    "so it would never be averaged: let the optimizer hold it from the start "
                    "(with requires_grad=False it does not train until you unfreeze it), or make "
                    "a new Averager when you unfreeze it"
                )

    def _optimized(self, k: int) -> list[Tensor]:
        groups = [group for optimizer in self.optimizers[k] for group in optimizer.param_groups]
        return [p for group in groups for p in group["params"]]

    def check_optimizer_state(self) -> None:
        """Refuses optimizers that keep a copy of the weights in their state."""
        for params, optimizers in zip(self._params, self.optimizers, strict=True):
            for name, parameter in zip(self.names, params, strict=True):
                for optimizer in optimizers:
                    check_no_weights_in_state(name, parameter, optimizer)

    def versions(self) -> list[int]:
        """How often the hosted workers' parameters have been changed in place."""
        return [p._version for params in self._params for p in params]

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

    def sizes(self) -> Tensor:
        """L2 norm of each model's parameters, over all shards: (K,); not finite if one is not."""
        if self.params.blocks:
            norms = [vector_norm(b, dim=1, dtype=self._norm_dtype) for b in self.params.blocks]
            wide = torch.stack([norm.to(self.device) for norm in norms])
        else:
            wide = self._norms([rows[0] for rows in self.params.values()]).unsqueeze(1)
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
        if len(norms) < len(self.models):
            known, norms = norms, norms.new_full((len(self.models), len(self.names)), torch.nan)
            norms[workers] = known
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
        if not self._is_plain or any(grad is not None and grad.is_sparse for grad in grads):
            grads = [None if grad is None else _entries(grad) for grad in grads]
        norms = self._norms(grads)
        norms = norms.view(-1, len(self.names))
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
        columns = zip(self.names, zip(*self._params, strict=True), strict=True)
        return {
            name: torch.stack([_grad_or_zero(p) for p in column])
            if len(column) > 1
            else _grad_or_zero(column[0]).unsqueeze(0)
            for name, column in columns
        }

    def zeros(self) -> Tensor:
        """Zeros, (K,), one for each hosted worker, in the dtype of norms."""
        dtype = next(iter(self.params.values())).dtype
        return torch.zeros(len(self.models), device=self.device, dtype=self._norm_dtype or dtype)

    def set_gradients(self, mean: Leaves, wanted: Sequence[bool]) -> None:
        """Gives every model the same gradient, for the leaves that are wanted."""
        for params in self._params:
            for parameter, leaf, is_wanted in zip(params, mean.values(), wanted, strict=True):
                if not is_wanted:
                    continue
                if parameter.grad is None or parameter.grad.is_sparse:
                    parameter.grad = torch.empty_like(parameter)
                values(parameter.grad).copy_(leaf)

    def lrs(self) -> Tensor:
        """The hosted workers' learning rates, (K,): of the first group of the first optimizer."""
        rates = [float(optimizers[0].param_groups[0]["lr"]) for optimizers in self.optimizers]
        return torch.tensor(rates, dtype=torch.float64)

    @contextmanager
    def holding(self, leaves: Mapping[str, Tensor]) -> Generator[nn.Module]:
        """The first hosted model with these values as parameters; its own are restored afterwards.

        Args:
            leaves: name -> values, like a row of `params`.

        Yields:
            The model.
        """
        rows = [self.params[name][0] for name in leaves]
        own = [row.clone() for row in rows]
        with torch.no_grad():
            torch._foreach_copy_(rows, list(leaves.values()))
        try:
            yield self.models[0]
        finally:
            with torch.no_grad():
                torch._foreach_copy_(rows, own)

    def state_dict_with(self, leaves: Mapping[str, Tensor]) -> dict[str, Any]:
        """A copy of the first model's state dict with these values as parameters."""
        with self.holding(leaves) as model:
            return {key: _copied(value) for key, value in model.state_dict().items()}

    def frozen(self) -> Rows:
        """The plain parameters that no optimizer holds, so that they never change."""
        tables: list[dict[str, Tensor]] = [dict(m.named_parameters()) for m in self.models]
        names = [
            n
            for n, p in tables[0].items()
            if n not in self.params and is_strided(p) and p.itemsize > 1
        ]
        return stack_of(tables, names)


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else deepcopy(value)


def _picked(model: nn.Module, names: Sequence[str]) -> list[nn.Parameter]:
    named = dict(model.named_parameters())
    return [named[name] for name in names]


def _form(parameter: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    return parameter.shape, parameter.dtype, parameter.device


def _moved(name: str) -> str:
    return (
        f"parameter {name!r} was moved or replaced after the Averager was made; move, convert and "
        "wrap the model first, then make its optimizer and the Averager"
    )


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


def held_names(model: nn.Module, optimizers: Sequence[Optimizer]) -> list[str]:
    """The names of the model's parameters that its optimizers hold.

    Returns:
        The names, in the model's order.

    Raises:
        UserError: if they hold something else, or not every trainable parameter.
    """
    named = dict(model.named_parameters())
    held = {id(p) for o in optimizers for group in o.param_groups for p in group["params"]}
    missing = [name for name, p in named.items() if p.requires_grad and id(p) not in held]
    if missing or not held <= {id(p) for p in named.values()}:
        what = (
            f"does not hold the model's parameter {missing[0]!r}"
            if missing
            else "holds parameters that are not the model's"
        )
        raise UserError(
            f"the optimizer {what}; make the optimizer from this model's parameters(), after the "
            "model is built, freeze (requires_grad=False) what must not be trained, and pass all "
            "optimizers of one model together, as a list"
        )
    return [name for name, p in named.items() if id(p) in held]


def fingerprint(model: nn.Module, held: Sequence[str]) -> str:
    """A digest of what must be the same on all workers: names, shapes, dtypes, what is averaged.

    Args:
        model: the model, of which parameters and persistent buffers count.
        held: the parameters that the optimizers hold.

    Returns:
        Hexadecimal digits.
    """
    named: dict[str, Tensor] = dict(model.named_parameters())
    buffers = dict(model.named_buffers())
    named.update((name, buffers[name]) for name in persistent_names(model))
    strides = {n: t.stride() if t.layout == torch.strided else t.layout for n, t in named.items()}
    lines = [f"{n} {tuple(t.shape)} {strides[n]} {t.dtype}" for n, t in named.items()]
    return hashlib.sha256("\n".join([*lines, "held", *held]).encode()).hexdigest()
