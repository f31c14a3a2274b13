"""The optimizer steps of all hosted workers in one pass."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

MOST_BYTES = 1_000_000
"""Most bytes of one parameter, over the workers that are moved together. Larger temporary tensors
don't fit into the cache, and their memory is requested from the system each time."""

State = dict[str, Tensor]
"""An optimizer's state for one parameter; or, with a leading K, for a stack of parameters."""


@dataclass(frozen=True)
class Rule:
    """How an elementwise optimizer moves tensors, with torch's own function.

    Attributes:
        buffers: names of the state entries that have the parameters' shapes.
        counts: whether its state has the number of steps, too.
        move: makes a step, given parameters, gradients, states and options.
    """

    buffers: Sequence[str]
    counts: bool
    move: Callable[[list[Tensor], list[Tensor], list[State], Mapping[str, Any]], None]


def _sgd(
    params: list[Tensor], grads: list[Tensor], states: list[State], options: Mapping[str, Any]
) -> None:
    names = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")
    buffers: list[Tensor | None] = [state["momentum_buffer"] for state in states]
    sgd(params, grads, buffers, **{name: options[name] for name in names})


def _adamw(
    params: list[Tensor], grads: list[Tensor], states: list[State], options: Mapping[str, Any]
) -> None:
    means, squares, steps = (
        [state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step")
    )
    names = ("lr", "weight_decay", "eps", "amsgrad", "maximize")
    beta1, beta2 = options["betas"]
    chosen = {name: options[name] for name in names}
    adamw(params, grads, means, squares, [], steps, beta1=beta1, beta2=beta2, **chosen)


RULES: Mapping[type[Optimizer], Rule] = {
    SGD: Rule(("momentum_buffer",), False, _sgd),
    AdamW: Rule(("exp_avg", "exp_avg_sq"), True, _adamw),
}


class StackedOptimizer:
    """Makes the steps of K optimizers, for all of their parameters at once.

    The optimizers keep their options and their state: their state entries are rows of the stacked
    state. A state that was cleared or loaded is copied into the stack at the next step. Consecutive
    workers are moved together if they have the same options and, if the optimizer counts steps,
    the same number of steps; large parameters are moved for a few workers at a time.

    Args:
        stack: L parameters, (K, *shape) each, which are moved.
        params: the same parameters as the optimizers have them, K lists of L.
        optimizers: K, of one class, each with one parameter group.
    """

    def __init__(
        self,
        stack: Sequence[Tensor],
        params: Sequence[Sequence[nn.Parameter]],
        optimizers: Sequence[Optimizer],
    ) -> None:
        self._rule = RULES[type(optimizers[0])]
        self._stack, self._params, self._optimizers = stack, params, optimizers
        self._most = max(1, MOST_BYTES // max(rows[0].nbytes for rows in stack))
        self._states = [self._empty(rows) for rows in stack]
        self._rows = [
            [{name: values[k] for name, values in state.items()} for state in self._states]
            for k in range(len(optimizers))
        ]

    def _empty(self, rows: Tensor) -> State:
        state = {name: torch.zeros_like(rows) for name in self._rule.buffers}
        return {**state, "step": torch.zeros(len(rows))} if self._rule.counts else state

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """Moves all parameters.

        Args:
            gradients: L tensors (K, *shape).
        """
        self._adopt_states()
        for workers, options in self._groups():
            states = [{name: self._part(v, workers) for name, v in s.items()} for s in self._states]
            params = [rows[workers] for rows in self._stack]
            self._rule.move(params, [rows[workers] for rows in gradients], states, options)
            if self._rule.counts:
                for state in self._states:
                    state["step"][workers] = state["step"][workers.start]

    @staticmethod
    def _part(values: Tensor, workers: slice) -> Tensor:
        """The rows of some workers; of the numbers of steps, which are equal, only the first."""
        return values[workers.start] if values.dim() == 1 else values[workers]

    def _groups(self) -> Iterator[tuple[slice, Mapping[str, Any]]]:
        """Consecutive workers that can be moved together, with their options."""
        counted = self._states[0]["step"].tolist() if self._rule.counts else [0] * len(self._params)
        keys = [
            ({name: value for name, value in o.param_groups[0].items() if name != "params"}, count)
            for o, count in zip(self._optimizers, counted, strict=True)
        ]
        for (options, _), run in groupby(range(len(keys)), keys.__getitem__):
            workers = list(run)
            for first in range(workers[0], workers[-1] + 1, self._most):
                yield slice(first, min(first + self._most, workers[-1] + 1)), options

    def _adopt_states(self) -> None:
        """Copies new states of the optimizers into the stack, and gives them its rows."""
        for optimizer, params, rows in zip(self._optimizers, self._params, self._rows, strict=True):
            if len(optimizer.state) == len(params) and optimizer.state.get(params[0]) is rows[0]:
                continue
            for parameter, row in zip(params, rows, strict=True):
                held = optimizer.state.get(parameter, {})
                for name, values in row.items():
                    values.copy_(held[name]) if name in held else values.zero_()
                optimizer.state[parameter] = row
