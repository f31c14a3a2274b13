"""`--config FILE`: options from a file, over which those of the command line go."""

import inspect
import tomllib
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from grawa.errors import UserError
from grawa.lab.experiments.config import TrainConfig

_OPTION = "--config"


def taken_from(args: Sequence[str]) -> TrainConfig | None:
    """The configuration in the file that a command line of `grawa train` names.

    Args:
        args: the command line.

    Returns:
        The configuration, or `None` if no file is named.

    Raises:
        UserError: if the file can't be read, or has an entry that is no option.
    """
    if not args or args[0] != "train":
        return None
    named = [after for before, after in pairwise(args) if before == _OPTION]
    named += [arg.removeprefix(f"{_OPTION}=") for arg in args if arg.startswith(f"{_OPTION}=")]
    if not named:
        return None
    if len(named) > 1:
        raise UserError(f"{_OPTION} takes one file, got {', '.join(named)}")
    path = Path(named[0])
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read: {error}") from None
    return TrainConfig.from_toml(table, path)


def with_defaults(command: Callable[..., Any], defaults: TrainConfig) -> Callable[..., Any]:
    """A command whose `config` has other values where none are given.

    Args:
        command: is changed in place.
        defaults: the values.

    Returns:
        The same command.
    """
    signature = inspect.signature(command)
    parameters = [
        parameter.replace(default=defaults) if parameter.name == "config" else parameter
        for parameter in signature.parameters.values()
    ]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return command
