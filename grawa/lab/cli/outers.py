"""Outer optimizers as they are written on the command line: outer=adamw:outer.lr=0.1."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from inspect import signature
from typing import Any, cast

from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from grawa.errors import UserError
from grawa.lab import own, written
from grawa.strategies.center import OuterNesterov
from grawa.strategies.outer_optimizer import OuterOptimizer
from grawa.strategies.protocol import Strategy

NESTEROV = "nesterov"

OF_TORCH: Mapping[str, Callable[..., Optimizer]] = {
    "sgd": SGD,
    "adagrad": Adagrad,
    "adam": Adam,
    "adamw": AdamW,
    "rmsprop": RMSprop,
}
"""Those of torch, with torch's own options and defaults."""


def divided(text: str) -> tuple[str, list[str]]:
    """A strategy's text without the choice of its outer optimizer.

    Returns:
        The rest of the text; and the choice and its options, as in ["adamw", "lr=0.1"]. They are
        empty if no outer optimizer is chosen by name.

    >>> divided("diloco:outer=adamw:outer.lr=0.1")
    ('diloco', ['adamw', 'lr=0.1'])
    """
    parts = text.split(":")
    chosen = [part.removeprefix("outer=") for part in parts if part.startswith("outer=")]
    if not chosen:
        return text, []
    options = [part.removeprefix("outer.") for part in parts if part.startswith("outer.")]
    rest = [part for part in parts if not part.startswith(("outer=", "outer."))]
    return ":".join(rest), [chosen[-1], *options]


def with_outer(made: Strategy, chosen: Sequence[str], where: str) -> Strategy:
    """A strategy with another outer optimizer.

    Args:
        made: the strategy.
        chosen: the name of the optimizer, and options, each as "option=value".
        where: the strategy, for messages.

    Returns:
        The strategy; itself if nothing is chosen.

    Raises:
        UserError: if it has none, or there is no such optimizer or option.
    """
    if not chosen:
        return made
    if "outer" not in {field.name for field in fields(made)}:
        has = ", ".join(written.option_names(made)) or "none"
        raise UserError(f"{where} has no option 'outer'; it has {has}")
    name, *options = chosen
    known = (NESTEROV, *OF_TORCH)
    if name not in known:
        close = own.meant(name, known)
        raise UserError(f"outer of {where} must be one of {', '.join(known)}, got {name!r}{close}")
    if name == NESTEROV:
        outer: Any = written.with_options(OuterNesterov(), options, name, "outer optimizer")
    else:
        outer = _of_torch(OF_TORCH[name], options, name)
    return cast(Strategy, replace(cast(Any, made), outer=outer))


def _of_torch(make: Callable[..., Optimizer], options: Sequence[str], name: str) -> OuterOptimizer:
    defaults = {name: p.default for name, p in signature(make).parameters.items()}
    kinds = {name: type(d) for name, d in defaults.items() if type(d) in (bool, int, float)}
    kinds["restart_every"] = int
    given: dict[str, Any] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise UserError(f"write options of an outer optimizer as outer.{key}=value")
        if key not in kinds:
            close, has = own.meant(key, kinds), ", ".join(kinds)
            raise UserError(f"outer optimizer {name} has no option {key!r}{close}; it has {has}")
        kind = float if kinds[key] is int and key != "restart_every" else kinds[key]
        given[key] = written.parse(value, kind, key, f"outer optimizer {name}")
    restart_every = given.pop("restart_every", None)
    return OuterOptimizer(make, tuple(given.items()), restart_every)
