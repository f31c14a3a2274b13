"""The methods of `grawa compare`: strategies with an optimizer, and the options to tune."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from grawa.errors import UserError
from grawa.lab import own, written
from grawa.lab.cli import names
from grawa.lab.cli.study_config import OWN
from grawa.lab.experiments.options import Changes, names_of_options, written_options

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
        strategy="diloco", knobs={"outer.lr": (0.7, 1.0), "outer.momentum": (0.3, 0.9)}
    ),
    "edit": Method(strategy="edit", knobs={"outer.lr": (0.8, 1.0), "outer.momentum": (0.85, 0.5)}),
    "rda": Method(strategy="rda", knobs={"outer.lr": (0.7, 1.0), "outer.momentum": (0.3, 0.9)}),
    "slowmo": Method(strategy="slowmo", knobs={"slow_lr": (1.0, 0.7), "momentum": (0.7, 0.4)}),
    "outer_steps": Method(
        strategy="outer_steps", knobs={"outer.lr": (0.7, 1.0), "outer.momentum": (0.3, 0.9)}
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
    chosen = ("outer.",) if "outer" in given else ()  # another one has other options to tune
    made = replace(
        found,
        strategy=":".join([found.strategy, *of_method]),
        optimizer=optimizer,
        optimizer_knobs=found.optimizer_knobs if optimizer == found.optimizer else {},
        options=changes,
        knobs={
            knob: values
            for knob, values in found.knobs.items()
            if knob not in given and not knob.startswith(chosen)
        },
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


def named(texts: Sequence[str]) -> dict[str, str]:
    """Methods by their names in tables: each is `alias=method`, or the method alone.

    Args:
        texts: as on the command line.

    Returns:
        Alias, or the method again without one -> method.

    Raises:
        UserError: if an alias is the name of a method, is given twice, or has other letters.

    >>> named(["best=mgrawa:pull=1", "lgrawa:pull=1"])
    {'best': 'mgrawa:pull=1', 'lgrawa:pull=1': 'lgrawa:pull=1'}
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, stands_for = text.partition("=")
        if not equals or ":" in name:  # an option's equals sign
            name = stands_for = text
        else:
            _check_alias(name, text)
        if name in found:
            raise UserError(f"the name {name!r} is given to two methods: choose another one")
        found[name] = stands_for
    return found


def _check_alias(alias: str, text: str) -> None:
    known = {**names.known_strategies(), **METHODS}
    if not re.fullmatch(r"[\w.+() -]+", alias):
        raise UserError(
            "write a method with a name of your own as name=method, such as best=mgrawa:pull=1, "
            f"got {text!r}"
        )
    if own.resolved(alias, known) in known:
        raise UserError(f"{alias!r} is the name of a method: choose another one in {text!r}")
