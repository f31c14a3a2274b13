"""`--config FILE`: options from a file, which the command line's options override."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from grawa.errors import UserError
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.older import is_saved, with_saved_defaults
from grawa.lab.records import read_toml

_OPTION = "--config"


def config_from(args: Sequence[str]) -> TrainConfig | None:
    """Reads the configuration file that a command line of `grawa train` names.

    Args:
        args: the command line.

    Returns:
        The configuration, or `None` if no file is named.

    Raises:
        UserError: if the file can't be read, or has an entry that is not an option.
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
    table = read_toml(path)
    return TrainConfig.from_toml(with_saved_defaults(table) if is_saved(table) else table, path)
