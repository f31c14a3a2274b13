"""Maps names on the command line to strategies and tasks."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar, cast

from grawa.errors import UserError
from grawa.lab import own, written
from grawa.lab.cli import outers
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
from grawa.strategies import (
    DPPF,
    EASGD,
    LGRAWA,
    LSGD,
    MGRAWA,
    RDA,
    DataParallel,
    DiLoCo,
    EDiT,
    InverseLoss,
    LocalSGD,
    OuterSteps,
    RandomWeights,
    SlowMo,
)
from grawa.strategies.center import OuterNesterov
from grawa.strategies.protocol import Strategy

Made = TypeVar("Made")

STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "mgrawa": MGRAWA,
    "lgrawa": LGRAWA,
    "easgd": EASGD,
    "lsgd": LSGD,
    "local_sgd": LocalSGD,
    "diloco": DiLoCo,
    "edit": EDiT,
    "rda": RDA,
    "slowmo": SlowMo,
    "outer_steps": OuterSteps,
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


def strategy(text: str) -> Strategy:
    """The strategy written as `name` or `name:option=value:option=value`.

    The name may be that of an entry point in the group grawa.strategies, or `file.py:Name` or
    `module:Name` of a class, of a function without arguments, or of a strategy itself. An outer
    optimizer of torch is chosen by its name, and has torch's options: outer=adamw:outer.lr=0.1.

    Returns:
        The strategy.
    """
    rest, outer = outers.divided(text)
    made = _read("strategy", known_strategies(), rest, Strategy)
    return outers.with_outer(made, outer, f"strategy {rest.partition(':')[0]}")


def task(text: str, data: str | None = None) -> Task:
    """The task written as `name` or `name:option=value:option=value`.

    The name may also be an entry point's, in the group grawa.tasks, or `file.py:name` or
    `module:name`, as that of a strategy.

    Args:
        text: the text.
        data: its option `data`, a path, which here may contain a colon.

    Returns:
        The task.
    """
    made = _read("task", known_tasks(), text, Task)
    if data is None:
        return made
    return written.with_option(made, ["data"], data, f"task {text.partition(':')[0]}")


def known_strategies() -> Mapping[str, Callable[[], Strategy]]:
    """Those of the package, and those that installed packages add."""
    return {**STRATEGIES, **own.installed("grawa.strategies")}


def known_tasks() -> Mapping[str, Callable[[], Task]]:
    """Those of the package, and those that installed packages add."""
    return {**TASKS, **own.installed("grawa.tasks")}


def _read(
    what: str, known: Mapping[str, Callable[[], Made]], text: str, kind: type[object]
) -> Made:
    if not own.is_own(text, known):
        return written.read(what, known, text)
    name, options = own.split(text)
    found = own.load(name)
    if not isinstance(found, kind):
        try:
            found = found()
        except TypeError as error:
            raise UserError(
                f"{name} is no {what}, nor a function or class that makes one without arguments: "
                f"{error}"
            ) from error
    if not isinstance(found, kind):
        raise UserError(
            f"{name} must give a {kind.__module__}.{kind.__name__}, got {type(found).__name__}"
        )
    made = cast(Made, found)
    return written.with_options(made, options.split(":") if options else [], name, what)
