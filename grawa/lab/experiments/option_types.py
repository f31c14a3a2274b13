"""The types of options: of values in files, and of texts on the command line."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

from grawa.errors import UserError
from grawa.lab.own import meant
from grawa.lab.shapes import is_number, is_text, shown
from grawa.lab.units import number

_READERS: tuple[Callable[[str], object], ...] = (
    {"None": None}.__getitem__,
    {"true": True, "false": False}.__getitem__,
    number,
    int,
    str,
    Path,
    {"true": "on", "false": "off"}.__getitem__,  # of an option that was a flag in earlier versions
)

_DESCRIBED = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}


def wrong_options(options: Mapping[str, Any], of: type) -> str | None:
    """What is wrong with the first option that is wrong, if one is.

    Args:
        options: name -> value.
        of: the dataclass whose fields they are.

    Returns:
        A sentence without its full stop.

    >>> from grawa.lab.experiments.config import TrainConfig
    >>> wrong_options({"workers": True}, TrainConfig)
    'workers = True is invalid: it must be a whole number'
    """
    hints = get_type_hints(of)
    for name, value in options.items():
        if name not in hints:
            return f"there is no option {shown(name)}"
        if not (_has_type(value, hints[name]) and _can_be_used(value)):
            return f"{name} = {shown(value)} is invalid: it must be {_described(hints[name])}"
    return None


def read_value(text: str, hint: Any, what: str) -> Any:
    """Parses a value.

    Args:
        text: the value as text.
        hint: its type; "None" is `None`, if the type allows it.
        what: whose value it is, for the message.

    Returns:
        The value.

    Raises:
        UserError: if it is none of that type.

    >>> read_value("8", int, "workers"), read_value("0.5", float | None, "alpha")
    (8, 0.5)
    """
    for read in _READERS:
        try:
            value = read(text)
        except (KeyError, ValueError):
            continue
        if _has_type(value, hint):
            return value
    close = meant(text, [value for value in get_args(hint) if isinstance(value, str)])
    raise UserError(f"{what} must be {_described(hint)}, got {shown(text)}{close}")


def _has_type(value: object, hint: Any) -> bool:
    """Whether a value has a type; true and false are no numbers."""
    if isinstance(value, bool) and bool not in (hint, *get_args(hint)):
        return False
    try:
        check_type(value, hint, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
    except TypeCheckError:
        return False
    return True


def _can_be_used(value: object) -> bool:
    """Whether numbers can be computed with, which must be finite, and texts can be written."""
    if isinstance(value, tuple):
        return all(map(_can_be_used, value))
    if isinstance(value, str):
        return is_text(value)
    return is_number(value) or (not isinstance(value, float) and type(value) is not int)


def _described(hint: Any) -> str:
    """A type, as what a value must be."""
    if get_origin(hint) is tuple:
        return f"a list, each of which is {_described(get_args(hint)[0])}"
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    kinds = [kind for kind in get_args(hint) if kind is not NoneType] or [hint]
    if kinds == [hint]:
        return _DESCRIBED.get(hint, "a path")
    return " or ".join(map(_described, kinds))
