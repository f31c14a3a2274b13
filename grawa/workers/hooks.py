"""Hooks on the users' optimizers, by which local steps are counted."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast
from weakref import WeakSet

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from grawa.errors import UserError
from grawa.workers.checks import check_hooked
from grawa.workers.replicas import Replicas
from grawa.workers.skips import Skips

MISSED_ALL_STEPS = (
    "the parameters have changed, but no optimizer step was counted: they were changed by an "
    "optimizer that was not given to the Averager, or without its step(). Make the optimizer first "
    "and give it to the Averager (a two-call SAM steps its base optimizer: give it that one, or "
    "use grawa.SAM)"
)
"""What is wrong if `StepHooks.missed_all_steps`."""


_CLOSURE_TWICE = (
    "this optimizer calls its closure several times in a step, and this strategy averages the "
    "gradients of each step once: call backward() first, and step() without a closure (with SAM, "
    "the second backward() within `with optimizer.perturbed():`)"
)


Result = TypeVar("Result")

_counted: WeakSet[Optimizer] = WeakSet()
"""Optimizers whose steps an Averager counts now."""


class StepHooks:
    """Calls back before and after each local step of the hosted workers.

    With several optimizers a local step is complete when the last one of the last hosted worker has
    stepped.

    Args:
        replicas: the hosted workers.
        share: called when a local step's gradients are there, before its first optimizer steps;
            `None` if nothing is to be done.
        after: called after a local step.
    """

    def __init__(
        self,
        replicas: Replicas,
        share: Callable[[], None] | None,
        after: Callable[[], None],
    ) -> None:
        self._replicas, self._share, self._after = replicas, share, after
        self._handles: list[RemovableHandle] = []
        self._skips = Skips(len(replicas.models))
        self._counted = 0
        self._versions: list[int] = []

    def attach(self) -> None:
        """Registers the hooks.

        Raises:
            UserError: if they are registered already, also by another Averager, or an optimizer
                would not call them.
        """
        if self._handles:
            raise UserError("this Averager is attached already; detach() it first")
        optimizers = self._replicas.optimizers
        for of_one_model in optimizers:
            check_hooked(of_one_model)
            if not _counted.isdisjoint(of_one_model):
                raise UserError(
                    "another Averager counts this optimizer's steps already, and would go on to "
                    "average: detach() it first (in a notebook, make model, optimizer and Averager "
                    "in one cell, or use `with`)"
                )
        for of_one_model in optimizers:
            _counted.update(of_one_model)
        if self._share is not None:
            first = optimizers[0][0]
            self._handles.append(first.register_step_pre_hook(_outside_graphs(self._begins)))
        for k, of_one_model in enumerate(optimizers):
            ends = _outside_graphs(partial(self._ends, k))
            self._handles.append(of_one_model[-1].register_step_post_hook(ends))
        self._counted, self._versions = 0, self._replicas.versions()

    def remove(self) -> None:
        """Removes the hooks."""
        for handle in self._handles:
            handle.remove()
        if self._handles:
            for of_one_model in self._replicas.optimizers:
                _counted.difference_update(of_one_model)
        self._handles.clear()

    def missed_all_steps(self) -> bool:
        """Whether parameters were trained since `attach`, but no step was counted."""
        trained = self._replicas.gradients.have_gradients()
        return self._counted == 0 and trained and self._replicas.versions() != self._versions

    def take_skipped(self) -> Tensor | None:
        """Steps that fused optimizers turned out to have skipped: see `Skips.take`."""
        return self._skips.take()

    def _begins(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Shares the gradients; where a closure computes them, when it has done so."""
        assert self._share is not None, "it is registered only then"
        closure = kwargs.get("closure", args[1] if args[1:] else None)
        if closure is None:
            self._share()
            return None
        wrapped = _Once(closure, self._share)
        if args[1:]:
            return (args[0], wrapped, *args[2:]), kwargs
        return args, {**kwargs, "closure": wrapped}

    def _ends(self, worker: int, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._skips.note(worker, optimizer)
        if worker == len(self._replicas.models) - 1:
            self._counted += 1
            self._after()


class _Once:
    """A closure that shares the gradients which it has computed, and may be called once.

    Args:
        closure: computes gradients.
        share: shares them.
    """

    def __init__(self, closure: Callable[[], Any], share: Callable[[], None]) -> None:
        self._closure, self._share, self._called = closure, share, False

    def __call__(self) -> Any:
        if self._called:
            raise UserError(_CLOSURE_TWICE)
        self._called = True
        result = self._closure()
        self._share()
        return result


def _outside_graphs(hook: Callable[..., Result]) -> Callable[..., Result]:
    """The hook, left outside the graph where `optimizer.step` is compiled."""
    return cast(Callable[..., Result], torch.compiler.disable(hook))
