"""Maps names on the command line to strategies and tasks."""

from collections.abc import Callable
from functools import partial

from grawa.lab import written
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
    DataParallel,
    DiLoCo,
    InverseLoss,
    LocalSGD,
    OuterSteps,
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
    """The strategy written as `name` or `name:option=value:option=value`."""
    return written.read("strategy", STRATEGIES, text)


def task(text: str, data: str | None = None) -> Task:
    """The task written as `name` or `name:option=value:option=value`.

    Args:
        text: the text.
        data: its option `data`, a path, which here may contain a colon.

    Returns:
        The task.
    """
    made = written.read("task", TASKS, text)
    if data is None:
        return made
    return written.with_option(made, ["data"], data, f"task {text.partition(':')[0]}")
