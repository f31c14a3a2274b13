"""Which parameters are averaged, and whether they are still the ones that were there at first."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from grawa.errors import UserError
from grawa.workers.buffers import persistent_names
from grawa.workers.checks import check_averageable, check_model


class _Link(NamedTuple):
    """A module or parameter on the way from a model to a parameter that it trains."""

    module: nn.Module
    key: str
    value: nn.Module | nn.Parameter
    """What the module has under this name."""
    name: str
    """The parameter's, or one parameter's where the way leads to several."""


class Identity:
    """The parameters that hosted models train, as they were when they were first seen.

    Args:
        models: K models with the same parameters.
        optimizers: those of each model.

    Attributes:
        names: of the parameters that the optimizers hold, L of them.
        params: these parameters, K lists of L.

    Raises:
        UserError: if models and optimizers don't fit each other.
    """

    def __init__(
        self, models: Sequence[nn.Module], optimizers: Sequence[Sequence[Optimizer]]
    ) -> None:
        if len(models) != len(optimizers) or not models:
            raise UserError(
                f"each model needs an optimizer, got {len(models)} models and "
                f"{len(optimizers)} optimizers"
            )
        for model in models:
            check_model(model)
        held = [held_names(m, o) for m, o in zip(models, optimizers, strict=True)]
        forms = {fingerprint(m, h) for m, h in zip(models, held, strict=True)}
        if len(forms) > 1:
            raise UserError("the hosted models differ in names, shapes or dtypes of parameters")
        self._models, self._optimizers = models, optimizers
        self.names = held[0]
        self.params = [_picked(model, self.names) for model in models]
        check_averageable(dict(zip(self.names, self.params[0], strict=True)))
        self._held = {id(p) for params in self.params for p in params}
        self._links = [_links(model, self.names) for model in models]
        self._forms = [_form(p) for p in self.params[0]]

    def check_forms(self) -> None:
        """Refuses parameters that have another shape, dtype or device than at first.

        Raises:
            UserError: naming the first such parameter.
        """
        for params in self.params:
            for name, parameter, form in zip(self.names, params, self._forms, strict=True):
                if _form(parameter) != form:
                    raise UserError(_moved(name))

    def check(self) -> None:
        """Refuses parameters that were replaced, converted, or given to an optimizer later.

        Raises:
            UserError: naming the first such parameter.
        """
        for links in self._links:
            for link in links:
                if getattr(link.module, link.key, None) is not link.value:
                    raise UserError(_moved(link.name))
        if late := self._given_late():
            for model in self._models:
                for name, parameter in model.named_parameters():
                    if id(parameter) in late:
                        raise UserError(_optimized_late(name))
        self.check_forms()

    def _given_late(self) -> set[int]:
        """The ids of the tensors that the optimizers hold, but did not at first."""
        return {id(p) for k in range(len(self._models)) for p in self._optimized(k)} - self._held

    def _optimized(self, k: int) -> list[Tensor]:
        groups = [group for optimizer in self._optimizers[k] for group in optimizer.param_groups]
        return [p for group in groups for p in group["params"]]


def _links(model: nn.Module, names: Sequence[str]) -> list[_Link]:
    """What must still be in place for the model to have these parameters, each link once."""
    found: dict[tuple[nn.Module, str], _Link] = {}
    for name in names:
        module = model
        for key in name.split("."):
            value = getattr(module, key)
            found.setdefault((module, key), _Link(module, key, value, name))
            module = value
    return list(found.values())


def _picked(model: nn.Module, names: Sequence[str]) -> list[nn.Parameter]:
    named = dict(model.named_parameters())
    return [named[name] for name in names]


def _form(parameter: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    return parameter.shape, parameter.dtype, parameter.device


def _optimized_late(name: str) -> str:
    return (
        f"parameter {name!r} was given to the optimizer after the Averager was made, so it would "
        "never be averaged: let the optimizer hold it from the start (with requires_grad=False it "
        "does not train until you unfreeze it), or make a new Averager when you unfreeze it"
    )


def _moved(name: str) -> str:
    return (
        f"parameter {name!r} was moved or replaced after the Averager was made; move, convert and "
        "wrap the model first, then make its optimizer and the Averager"
    )


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
