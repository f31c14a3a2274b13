"""The settings of each method that tuning tries."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from grawa.lab.cli.methods import Method
from grawa.lab.experiments.limits import LARGEST

_WIDEST = 1.5  # the grid's learning rates are within a factor 2**1.5 of the given one
_FEWEST_LRS = 4
"""Least number of learning rates in a grid, before other options are tried: a learning rate that is
off by a factor of 2.8 costs more than other options gain."""


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
    used, lrs = _tried_knobs(chosen, settings)
    return _settings(chosen, used, [lr * 2.0**exponent for exponent in _exponents(lrs)])


def beyond(chosen: Method, lr: float, settings: int, steps: int) -> list[dict[str, Any]]:
    """Settings with learning rates beyond those of a grid, as far from each other as there.

    Args:
        chosen: the method.
        lr: the learning rate in the middle of the grid.
        settings: number of settings of the grid.
        steps: number of learning rates on each side.

    Returns:
        Changes to a run's options, as those of `grid`; none if the grid has one learning rate, and
        none with a learning rate that no run may have.

    >>> [s["lr"] for s in beyond(Method(strategy="data_parallel"), 0.1, 3, 1)]
    [0.0125, 0.8]
    """
    used, lrs = _tried_knobs(chosen, settings)
    inside = _exponents(lrs)
    if len(inside) < 2:
        return []
    apart = inside[1] - inside[0]
    sides = [sign * (_WIDEST + apart * step) for sign in (-1, 1) for step in range(1, steps + 1)]
    outside = [lr * 2.0**exponent for exponent in sides]
    return _settings(chosen, used, [each for each in outside if each <= LARGEST["lr"]])


def _tried_knobs(chosen: Method, settings: int) -> tuple[dict[str, Sequence[float]], int]:
    """The knobs that a grid of so many settings tries, and the number of its learning rates."""
    used: dict[str, Sequence[float]] = {}
    lrs = settings
    for knob, tried in (*chosen.knobs.items(), *chosen.optimizer_knobs.items()):
        if lrs % len(tried) == 0 and lrs // len(tried) >= _FEWEST_LRS:
            used[knob] = tried
            lrs //= len(tried)
    return used, lrs


def _settings(
    chosen: Method, used: Mapping[str, Sequence[float]], lrs: Sequence[float]
) -> list[dict[str, Any]]:
    """All combinations of the knobs' values and learning rates."""
    found: list[dict[str, Any]] = []
    for *values, lr in product(*used.values(), lrs):
        of_strategy = dict(zip(used, values, strict=True))
        of_optimizer = {k: of_strategy.pop(k) for k in chosen.optimizer_knobs if k in of_strategy}
        setting: dict[str, Any] = {
            "strategy": _with(chosen.strategy, of_strategy),
            "lr": float(f"{lr:.3g}"),
            **chosen.options,
        }
        if chosen.optimizer is not None:
            setting["optimizer"] = _with(chosen.optimizer, of_optimizer)
        found.append(setting)
    return found


def _exponents(count: int) -> list[float]:
    """The learning rates of a grid over the middle one, as powers of 2."""
    if count == 1:
        return [0.0]
    return [_WIDEST * (2 * i / (count - 1) - 1) for i in range(count)]


def _with(name: str, options: Mapping[str, float]) -> str:
    return ":".join([name, *(f"{option}={value}" for option, value in options.items())])
