"""Options of a training run: parsing them, and changing them in a configuration."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, get_type_hints

from grawa.errors import UserError
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.option_types import read_value
from grawa.lab.own import meant

Changes = Mapping[str, Any]
"""Option of `TrainConfig` -> value."""


def names_of_options() -> list[str]:
    """The names of all options of a run."""
    return [field.name for field in fields(TrainConfig)]


def option_value(name: str, text: str) -> Any:
    """Parses the value of an option.

    Args:
        name: the option.
        text: its value as text.

    Returns:
        The value, in the option's type.

    Raises:
        UserError: if there is no such option, or it can't have this value.

    >>> option_value("lr", "0.5"), option_value("workers", "8"), option_value("guard", "false")
    (0.5, 8, False)
    """
    known = names_of_options()
    if name not in known:
        close = meant(name, known)
        raise UserError(f"`grawa train` has no option {name!r}{close}; it has {', '.join(known)}")
    return read_value(text, get_type_hints(TrainConfig)[name], name)


def changed(config: TrainConfig, *changes: Changes) -> TrainConfig:
    """The configuration with changed options; later changes override earlier ones.

    Faults are added to earlier ones, so that one condition does not undo another.

    Returns:
        A new configuration.
    """
    for change in changes:
        faults = config.fault + tuple(change.get("fault", ()))
        config = replace(config, **{**change, "fault": faults})
    return config


def as_lists(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options for TOML and JSON, with lists in place of tuples."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in options.items()}


def written_options(texts: Sequence[str]) -> dict[str, Any]:
    """Parses options written as name=value.

    Args:
        texts: one for each option.

    Returns:
        The changes.

    Raises:
        UserError: if one can't be parsed.

    >>> written_options(["batch_size=8", "optimizer=adamw"])
    {'batch_size': 8, 'optimizer': 'adamw'}
    """
    pairs = [text.partition("=") for text in texts]
    for (_, equals, _), text in zip(pairs, texts, strict=True):
        if not equals:
            raise UserError(f"write options as name=value, such as batch_size=32, got {text!r}")
    return {name: option_value(name, value) for name, _, value in pairs}


def condition(text: str) -> dict[str, Any]:
    """The changes that a condition makes to a run's options.

    Args:
        text: clean; a fault such as wrong-labels:3; a distribution of samples, dirichlet:0.3; or
            several of these, joined by +.

    Returns:
        The changes.

    Raises:
        UserError: if a part of it is empty.

    >>> condition("dirichlet:0.3+lr-x6:3")
    {'shards': 'dirichlet:0.3', 'fault': ('lr-x6:3',)}
    """
    found: dict[str, Any] = {}
    for part in text.split("+"):
        if not part:
            raise UserError(f"write conditions as clean or wrong-labels:3+lr-x6:2, got {text!r}")
        if part == "iid" or part.startswith("dirichlet"):
            found["shards"] = part
        elif part != "clean":
            found["fault"] = (*found.get("fault", ()), part)
    return found
