"""The methods of `grawa compare`: strategies with an optimizer, and the options to tune."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from grawa.errors import UserError
from grawa.lab import own, written
from grawa.lab.cli import names
from grawa.lab.cli.study_config import OWN
from grawa.lab.experiments.options import Changes, names_of_options, written_options

_WIDEST = 1.5  # the grid's learning rates are within a factor 2**1.5 of the given one
_FEWEST_LRS = 4
"""Least number of learning rates in a grid, before other options are tried: a learning rate that is
off by a factor of 2.8 costs more than other options gain."""

_SHARED = ("workers", "batch_size", "lr", "step_time", "link", "topology", "shards")
"""Options that are the same for all methods of a study, or that are tuned."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A strategy with an optimizer and other options of a run.

    Attributes:
        strategy: as in `grawa train --strategy`.
        optimizer: as in `grawa train --optimizer`; `None` for the comparison's optimizer.
        options: other options of `grawa train`.
        knobs: up to two of its main options -> values that tuning tries, the default first.
        optimizer_knobs: the same for its optimizer; at most two in total with `knobs`.
    """

    strategy: str
    optimizer: str | None = None
    options: Changes = field(default_factory=dict)
    knobs: Mapping[str, Sequence[float]] = field(default_factory=dict)
    optimizer_knobs: Mapping[str, Sequence[float]] = field(default_factory=dict)


_PULL = {"pull": (0.5, 0.9), "prox": (0.01, 0.1)}

METHODS: dict[str, Method] = {
    **{name: Method(strategy=name) for name in names.STRATEGIES},
    "mgrawa": Method(strategy="mgrawa", knobs=_PULL),
    "lgrawa": Method(strategy="lgrawa", knobs=_PULL),
    "lgrawa_nesterov": Method(strategy="lgrawa_nesterov", knobs=_PULL),
    "uniform": Method(strategy="uniform", knobs=_PULL),
    "easgd": Method(strategy="easgd", knobs={"elasticity": (0.9, 0.43), "prox": (0.0, 0.1)}),
    "lsgd": Method(strategy="lsgd", knobs={"pull": (0.1, 0.5), "prox": (0.0, 0.1)}),
    "local_sgd": Method(strategy="local_sgd", knobs={"pull": (1.0, 0.75)}),
    "diloco": Method(
        strategy="diloco", knobs={"outer.lr": (0.7, 1.0), "outer.momentum": (0.9, 0.5)}
    ),
    "slowmo": Method(strategy="slowmo", knobs={"slow_lr": (1.0, 0.7), "momentum": (0.7, 0.4)}),
    "outer_steps": Method(
        strategy="outer_steps", knobs={"outer.lr": (0.7, 1.0), "outer.momentum": (0.9, 0.5)}
    ),
    "dppf": Method(strategy="dppf", knobs={"pull": (0.1, 0.5), "push": (0.03, 0.1)}),
    "random": Method(strategy="random", knobs=_PULL),
    "inverse_loss": Method(strategy="inverse_loss", knobs=_PULL),
    "dp_sgd": Method(strategy="data_parallel", optimizer="sgd"),
    "dp_sam": Method(
        strategy="data_parallel", optimizer="sam", optimizer_knobs={"rho": (0.05, 0.1)}
    ),
}
"""Each strategy under its own name, and pairs of a strategy and an optimizer."""


def method(text: str) -> Method:
    """The method written as `name` or `name:option=value`; options that are given are not tuned.

    Options are the strategy's or, if it has none of that name, those of `grawa train`:
    mgrawa:power=2:score=rms. Options of the score are written as score.decay=0.95.

    Returns:
        The method.

    Raises:
        UserError: if there is no such method or option.
    """
    known = {**{name: Method(strategy=name) for name in names.known_strategies()}, **METHODS}
    name, _, options = text.partition(":")
    if own.is_own(text, known):
        name, options = own.split(text)
        known[name] = Method(strategy=name)
    name = own.resolved(name, known)
    if name not in known:
        close = own.meant(name, known)
        raise UserError(f"there is no method {name!r}{close}; there are {', '.join(known)}")
    found = known[name]
    of_strategy = written.option_names(names.strategy(found.strategy))
    of_method: list[str] = []
    of_run: list[str] = []
    for part in _with_whole_score(options.split(":") if options else []):
        option = part.partition("=")[0]
        is_of_run = option in names_of_options() and option not in of_strategy
        (of_run if is_of_run else of_method).append(part)
        if is_of_run and option in (*OWN, *_SHARED):
            raise UserError(
                f"{option} can't be an option of a method: the study sets it for all methods"
            )
    given = {part.partition("=")[0] for part in of_method}
    changes = written_options(of_run)
    optimizer = changes.pop("optimizer", found.optimizer)
    made = replace(
        found,
        strategy=":".join([found.strategy, *of_method]),
        optimizer=optimizer,
        optimizer_knobs=found.optimizer_knobs if optimizer == found.optimizer else {},
        options=changes,
        knobs={knob: values for knob, values in found.knobs.items() if knob not in given},
    )
    names.strategy(made.strategy)
    return made


def _with_whole_score(parts: Sequence[str]) -> list[str]:
    """A method's options, where "score=..." and "score.option=..." are joined to one."""
    of_score = [part for part in parts if part.startswith("score.")]
    if not any(part.startswith("score=") for part in parts):
        return list(parts)
    return [
        ":".join([part, *(option.removeprefix("score.") for option in of_score)])
        if part.startswith("score=")
        else part
        for part in parts
        if part not in of_score
    ]


def grid(chosen: Method, lr: float, settings: int) -> list[dict[str, Any]]:
    """The settings that tuning tries: combinations of two values of each knob and learning rates.

    Every method gets the same number of settings, so a method with fewer knobs gets more learning
    rates. These are spread evenly, on a logarithmic scale, between 0.35 and 2.8 times `lr`. A knob
    is tried only if at least four learning rates remain for each of its values.

    Args:
        chosen: the method.
        lr: the learning rate in the middle.
        settings: number of settings; 8, 12 and so on try one knob, 16 and so on two.

    Returns:
        A list of changes to a run's options; the method's defaults at `lr` if `settings` is 1.

    >>> [s["lr"] for s in grid(Method(strategy="data_parallel"), 0.1, 3)]
    [0.0354, 0.1, 0.283]
    """
    used: dict[str, Sequence[float]] = {}
    lrs = settings
    for knob, tried in (*chosen.knobs.items(), *chosen.optimizer_knobs.items()):
        if lrs % len(tried) == 0 and lrs // len(tried) >= _FEWEST_LRS:
            used[knob] = tried
            lrs //= len(tried)
    found: list[dict[str, Any]] = []
    for *values, factor in product(*used.values(), _factors(lrs)):
        of_strategy = dict(zip(used, values, strict=True))
        of_optimizer = {k: of_strategy.pop(k) for k in chosen.optimizer_knobs if k in of_strategy}
        setting: dict[str, Any] = {
            "strategy": _with(chosen.strategy, of_strategy),
            "lr": float(f"{lr * factor:.3g}"),
            **chosen.options,
        }
        if chosen.optimizer is not None:
            setting["optimizer"] = _with(chosen.optimizer, of_optimizer)
        found.append(setting)
    return found


def _factors(count: int) -> list[float]:
    if count == 1:
        return [1.0]
    exponents = [_WIDEST * (2 * i / (count - 1) - 1) for i in range(count)]
    return [float(2.0**exponent) for exponent in exponents]


def _with(name: str, options: Mapping[str, float]) -> str:
    return ":".join([name, *(f"{option}={value}" for option, value in options.items())])
