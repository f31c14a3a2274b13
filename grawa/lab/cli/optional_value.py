"""`--stack-workers` may be written without a value, as when it was a flag."""

from collections.abc import Sequence
from typing import get_args, get_type_hints

from grawa.lab.experiments.config import TrainConfig

_OPTION, _NEGATED = "--stack-workers", "--no-stack-workers"


def with_stack_workers(args: Sequence[str]) -> list[str]:
    """Gives `--stack-workers` of `grawa train` the value that it means without one.

    Args:
        args: the command line.

    Returns:
        The command line, in which the option has a value.

    >>> with_stack_workers(["train", "--stack-workers", "digits"])
    ['train', '--stack-workers=on', 'digits']
    >>> with_stack_workers(["train", "digits", "--stack-workers", "auto"])
    ['train', 'digits', '--stack-workers', 'auto']
    """
    if not args or args[0] != "train":
        return list(args)
    values = get_args(get_type_hints(TrainConfig)["stack_workers"])
    following = [*args[1:], ""]
    return [
        _written(arg.replace("_", "-"), after in values) or arg
        for arg, after in zip(args, following, strict=True)
    ]


def _written(option: str, has_value: bool) -> str | None:
    """The option with its value; `None` for what is not this option, or has a value already."""
    if option == _NEGATED:
        return f"{_OPTION}=off"
    return f"{_OPTION}=on" if option == _OPTION and not has_value else None
