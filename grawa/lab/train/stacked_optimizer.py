"""One pass for the optimizers of all hosted workers."""

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
"""Of one parameter of the workers that move together, and so of what is computed on the way: larger
temporary tensors fall out of the cache, and their memory is asked of the system anew each time."""

State = dict[str, Tensor]
"""An optimizer's state for one parameter; or, with a leading K, for a leaf of the stack."""


@dataclass(frozen=True)
class Rule:
    """How an elementwise optimizer moves tensors, by torch's own function.

    Attributes:
        buffers: the names of its state that has the parameters' shapes.
        counts: whether its state has the number of steps made, too.
        move: given parameters, gradients, states and options.
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
    """Does what K optimizers would do, for all of their parameters at once.

    The optimizers keep their options and their state, in torch's form: what they hold are rows of
    the stacked state. A state that was cleared or loaded is taken over at the next step. Workers
    next to each other move together if they have the same options and, where they count them, as
    many steps behind them; large ones in several goes.

    Args:
        stack: L parameters, (K, *shape) each, to be moved.
        params: the same, K lists of L, as the optimizers know them.
        optimizers: K, of one kind, each with one group of options.
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
        self._take_over()
        for who, options in self._alike():
            states = [{name: self._part(v, who) for name, v in s.items()} for s in self._states]
            params = [rows[who] for rows in self._stack]
            self._rule.move(params, [rows[who] for rows in gradients], states, options)
            if self._rule.counts:
                for state in self._states:
                    state["step"][who] = state["step"][who.start]

    @staticmethod
    def _part(values: Tensor, who: slice) -> Tensor:
        """Some rows; of numbers of steps, which are equal there, the first."""
        return values[who.start] if values.dim() == 1 else values[who]

    def _alike(self) -> Iterator[tuple[slice, Mapping[str, Any]]]:
        """Runs of workers that can move together, with their options."""
        counted = self._states[0]["step"].tolist() if self._rule.counts else [0] * len(self._params)
        keys = [
            ({name: value for name, value in o.param_groups[0].items() if name != "params"}, count)
            for o, count in zip(self._optimizers, counted, strict=True)
        ]
        for (options, _), run in groupby(range(len(keys)), keys.__getitem__):
            who = list(run)
            for first in range(who[0], who[-1] + 1, self._most):
                yield slice(first, min(first + self._most, who[-1] + 1)), options

    def _take_over(self) -> None:
        """Makes the optimizers' states rows of ours, with what they hold now."""
        for optimizer, params, rows in zip(self._optimizers, self._params, self._rows, strict=True):
            if optimizer.state.get(params[0]) is rows[0]:
                continue
            for parameter, row in zip(params, rows, strict=True):
                held = optimizer.state.get(parameter, {})
                for name, values in row.items():
                    values.copy_(held[name]) if name in held else values.zero_()
                optimizer.state[parameter] = row
