"""The hosted workers' models and optimizers, with their parameters as stacks."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from grawa.math.leaves import Rows
from grawa.workers.buffers import Buffers
from grawa.workers.checks import check_no_weights_in_state
from grawa.workers.gradients import Gradients
from grawa.workers.identity import Identity
from grawa.workers.optimizer_state import OptimizerStates
from grawa.workers.stack import is_strided, local, stack_of
from grawa.workers.unwrapped import check_not_flat, inner_model, inner_optimizer


class Replicas:
    """K models with their optimizers.

    Args:
        models: K models with the same parameters and buffers, which may be wrapped in DDP, by
            `torch.compile` or by a framework.
        optimizers: the optimizers of each; together they hold all trainable parameters of their
            model, and nothing else.
        worker_group: the processes that a worker consists of, if its parameters are sharded over
            them (DTensor): norms are taken over all shards.

    Attributes:
        given: the models as they were given.
        models: the models themselves, without wrappers, by whose names all is named.
        params: what is trained and averaged, name -> (K, *shape): the parameters that the
            optimizers hold. A parameter that two modules share occurs once. Complex ones occur as
            real and imaginary parts, (K, *shape, 2).
        buffers: the models' persistent buffers.
        identity: which parameters these are, and whether they still are.
        gradients: the parameters' gradients and norms.
        states: what the optimizers keep for each parameter.

    Raises:
        UserError: if models and optimizers don't fit each other.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        optimizers: Sequence[Sequence[Optimizer]],
        worker_group: dist.ProcessGroup | None = None,
    ) -> None:
        self.given = list(models)
        for model in models:
            check_not_flat(model)
        self.models = [inner_model(model) for model in models]
        self.optimizers = [[inner_optimizer(o) for o in of_one] for of_one in optimizers]
        self.identity = Identity(self.models, self.optimizers)
        self.gradients = Gradients(self.models, self.identity, worker_group)
        self._params = self.identity.params
        self._is_sharded = any(hasattr(p, "to_local") for p in self._params[0])
        self.states = OptimizerStates(self.names, self._params, self.optimizers)
        self._stack_params()
        self.buffers = Buffers(self.models)

    @property
    def names(self) -> list[str]:
        """The names of the parameters that are averaged."""
        return self.identity.names

    def _stack_params(self) -> None:
        tables: list[dict[str, Tensor]] = [
            dict(zip(self.names, params, strict=True)) for params in self._params
        ]
        self.params = stack_of(tables, self.names)
        self._addresses = self._current_addresses()

    def _current_addresses(self) -> list[int]:
        if not self._is_sharded:
            return [p.data_ptr() for params in self._params for p in params]
        return [local(p).data_ptr() for params in self._params for p in params]

    def follow(self) -> bool:
        """Makes `params` anew if a module has moved parameters in memory, as `nn.LSTM` does.

        Returns:
            Whether that was the case.
        """
        if self._current_addresses() == self._addresses:
            return False
        self.identity.check_forms()
        self._stack_params()
        return True

    def check_optimizer_state(self) -> None:
        """Refuses optimizers that keep a copy of the weights in their state."""
        for params, optimizers in zip(self._params, self.optimizers, strict=True):
            check_no_weights_in_state(self.names, params, optimizers)

    def versions(self) -> list[int]:
        """How often the hosted workers' parameters have been changed in place."""
        return [p._version for params in self._params for p in params]

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
            The model, as it was given.
        """
        rows = [self.params[name][0] for name in leaves]
        own = [row.clone() for row in rows]
        with torch.no_grad():
            torch._foreach_copy_(rows, list(leaves.values()))
        try:
            yield self.given[0]
        finally:
            with torch.no_grad():
                torch._foreach_copy_(rows, own)

    def state_dict_with(self, leaves: Mapping[str, Tensor]) -> dict[str, Any]:
        """A copy of the first model's state dict with these values as parameters."""
        with self.holding(leaves):
            return {key: _copied(value) for key, value in self.models[0].state_dict().items()}

    def frozen_names(self) -> list[str]:
        """The names of the plain parameters that no optimizer holds, so that they never change."""
        return [
            n
            for n, p in self.models[0].named_parameters()
            if n not in self.params and is_strided(p) and p.itemsize > 1
        ]

    def frozen(self) -> Rows:
        """The parameters of `frozen_names`."""
        tables: list[dict[str, Tensor]] = [dict(m.named_parameters()) for m in self.models]
        return stack_of(tables, self.frozen_names())


def per_model(
    optimizer: Optimizer | Sequence[Optimizer] | Sequence[Sequence[Optimizer]], *, one: bool
) -> list[list[Optimizer]]:
    """The optimizers of each model, as a user may give them.

    Args:
        optimizer: one, or several of one model, or those of each of several models.
        one: whether there is one model.

    Returns:
        A list for each model.
    """
    if isinstance(optimizer, Optimizer):
        return [[optimizer]]
    lists = [[each] if isinstance(each, Optimizer) else list(each) for each in optimizer]
    return [[each for of_one in lists for each in of_one]] if one else lists


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else deepcopy(value)
