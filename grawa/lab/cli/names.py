"""From names on the command line to objects: the only place that knows both."""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import Field, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, cast, get_args, get_type_hints

from grawa.errors import UserError
from grawa.lab.tasks import (
    Cifar10,
    Cifar100,
    Digits,
    Glyphs,
    ImageNet,
    Logistic,
    Quadratic,
    Task,
    Text,
    Wells,
)
from grawa.scores import GradientNorms, NormTimesLoss, RmsGradientNorms
from grawa.scores.protocol import Score
from grawa.strategies import (
    DPPF,
    EASGD,
    LGRAWA,
    LSGD,
    MGRAWA,
    DataParallel,
    DiLoCo,
    InverseLoss,
    LocalSGD,
    RandomWeights,
    SlowMo,
)
from grawa.strategies.center import OuterNesterov
from grawa.strategies.protocol import Strategy

STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "mgrawa": MGRAWA,
    "lgrawa": LGRAWA,
    "easgd": EASGD,
    "lsgd": LSGD,
    "local_sgd": LocalSGD,
    "diloco": DiLoCo,
    "slowmo": SlowMo,
    "dppf": DPPF,
    "data_parallel": DataParallel,
    "uniform": partial(LocalSGD, pull=0.5, prox=0.01),
    "random": RandomWeights,
    "inverse_loss": InverseLoss,
    "lgrawa_nesterov": partial(LGRAWA, outer=OuterNesterov()),
}

TASKS: dict[str, Callable[[], Task]] = {
    "digits": Digits,
    "glyphs": Glyphs,
    "text": Text,
    "cifar10": Cifar10,
    "cifar100": Cifar100,
    "imagenet": ImageNet,
    "wells": Wells,
    "quadratic": Quadratic,
    "logistic": Logistic,
}

NORMS: dict[str, Callable[[], Score]] = {
    "training": GradientNorms,
    "rms": RmsGradientNorms,
    "norm-times-loss": NormTimesLoss,
}
"""Where gradient norms come from; "probe" too, which is made for the hosted models of a run."""
_PLAIN = (bool, int, float, str, Path)
"""Types of options that are written as one value."""

Made = TypeVar("Made")


def strategy(text: str) -> Strategy:
    """The strategy written as `name` or `name:option=value:option=value`."""
    return _make("strategy", STRATEGIES, text)


def task(text: str, data: str | None = None) -> Task:
    """The task written in the same way.

    Args:
        text: `name` or `name:option=value:option=value`.
        data: its option `data`, a path; here one that may hold a colon.

    Returns:
        The task.
    """
    made = _make("task", TASKS, text)
    if data is None:
        return made
    return _with_option(made, ["data"], data, f"task {text.partition(':')[0]}")


def norms(text: str) -> Score:
    """The source of gradient norms written in the same way."""
    return _make("source of norms", NORMS, text)


def _make(what: str, known: Mapping[str, Callable[[], Made]], text: str) -> Made:
    name, *options = text.split(":")
    if name not in known:
        raise UserError(f"there is no {what} {name!r}; there are {', '.join(known)}")
    made = known[name]()
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise UserError(f"write options of a {what} as {name}:option=value, got {option!r}")
        made = _with_option(made, key.split("."), value, f"{what} {name}")
    return made


def _with_option(made: Made, path: list[str], value: str, where: str) -> Made:
    """A copy of a dataclass value with one option, or an option's option, set."""
    names = {
        _written(field): field.name
        for field in fields(cast(Any, made))
        if _is_settable(made, field.name)
    }
    if path[0] not in names:
        raise UserError(f"{where} has no option {path[0]!r}; it has {', '.join(names) or 'none'}")
    name = names[path[0]]
    kind = _kind(made, name)
    if is_dataclass(kind):
        inner = getattr(made, name)
        inner = cast(type, kind)() if inner is None else inner
        if len(path) == 1:
            options = ", ".join(f"{path[0]}.{field.name}" for field in fields(kind))
            raise UserError(f"set {path[0]!r} of {where} by its own options: {options}")
        setting: Any = _with_option(inner, path[1:], value, where)
    elif len(path) > 1:
        raise UserError(f"option {path[0]!r} of {where} has no options of its own")
    else:
        setting = _parse(value, kind, path[0], where)
    return cast(Made, replace(cast(Any, made), **{name: setting}))


def _written(field: Field[Any]) -> str:
    """How an option is called on the command line."""
    return str(field.metadata.get("option", field.name))


def _is_settable(made: object, name: str) -> bool:
    kind = _kind(made, name)
    return kind in _PLAIN or is_dataclass(kind)


def _kind(made: object, name: str) -> Any:
    """The type of an option: of its value, or of what it may be instead of `None`."""
    value = getattr(made, name)
    if is_dataclass(value):
        return type(value)
    hint = get_type_hints(type(made))[name]
    return next((kind for kind in get_args(hint) if kind is not NoneType), hint)


def _parse(value: str, kind: Any, key: str, where: str) -> Any:
    try:
        if not value:
            raise ValueError("an option has a value")
        return {"true": True, "false": False}[value] if kind is bool else kind(value)
    except (KeyError, ValueError):
        raise UserError(f"{key} of {where} must be a {kind.__name__}, got {value!r}") from None


def describe(made: object) -> tuple[str, str, str]:
    """What a list shows of a strategy or task: its first line, its options, its source."""
    text = inspect.getdoc(type(made)) or ""
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    source = next((part for part in paragraphs if part.startswith("Source: ")), "Source: ")
    short = re.match(r"Source: (.*?\(\d{4}\)|.*)", source)
    return paragraphs[0], ", ".join(_options(made)), short[1] if short else ""


def option_names(made: object) -> list[str]:
    """What the options of a strategy or task are called on the command line."""
    return [option.partition("=")[0] for option in _options(made)]


def _options(made: object, prefix: str = "") -> list[str]:
    found: list[str] = []
    for field in fields(cast(Any, made)):
        value = getattr(made, field.name)
        if is_dataclass(value):
            found += _options(value, f"{prefix}{field.name}.")
        elif _is_settable(made, field.name):
            shown = str(value).lower() if isinstance(value, bool) else value
            found.append(f"{prefix}{_written(field)}={shown}")
    return found
