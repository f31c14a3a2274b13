"""Parses values written as `name` or `name:option=value:option=value`."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, cast, get_args, get_type_hints

from grawa.errors import UserError
from grawa.lab import own
from grawa.lab.shapes import is_text, shown
from grawa.lab.units import number

_PLAIN = (bool, int, float, str, Path)
"""Types of options that are written as one value."""

_MOST = 1e9
"""The largest number that an option can have; NaN is none."""

Made = TypeVar("Made")


def read(what: str, known: Mapping[str, Callable[[], Made]], text: str) -> Made:
    """Parses a value.

    Args:
        what: the kind of value, for messages.
        known: name -> a function that makes its value, a frozen dataclass.
        text: the text.

    Returns:
        The value.

    Raises:
        UserError: if there is no such name or option, or the option can't have this value.
    """
    name, *options = text.split(":")
    name = own.resolved(name, known)
    if name not in known:
        close = own.meant(name, known)
        raise UserError(f"there is no {what} {name!r}{close}; there are {', '.join(known)}")
    return with_options(known[name](), options, name, what)


def with_options(made: Made, options: Sequence[str], name: str, what: str) -> Made:
    """A copy of a dataclass value with some options set.

    Args:
        made: the value.
        options: each as "option=value".
        name: of the value, for messages.
        what: its kind, for messages.

    Returns:
        The copy.

    Raises:
        UserError: as `read` does.
    """
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise UserError(f"write options of a {what} as {name}:option=value, got {option!r}")
        made = with_option(made, key.split("."), value, f"{what} {name}")
    return made


def with_option(made: Made, path: list[str], value: str, where: str) -> Made:
    """A copy of a dataclass value with one option set, or an option of an option.

    Args:
        made: the value.
        path: the option's name, or the names of an option and of one of its own options.
        value: the option's value as text.
        where: the kind and name of the value, for messages.

    Returns:
        The copy.

    Raises:
        UserError: as `read` does.
    """
    names = {
        _written(field): field.name
        for field in (fields(made) if is_dataclass(made) else ())
        if field.init and _is_settable(made, field.name)
    }
    if path[0] not in names:
        close = own.meant(path[0], names)
        has = ", ".join(names) or "none"
        raise UserError(f"{where} has no option {path[0]!r}{close}; it has {has}")
    name = names[path[0]]
    kind = _kind(made, name)
    if is_dataclass(kind):
        inner = getattr(made, name)
        inner = cast(type, kind)() if inner is None else inner
        if len(path) == 1:
            options = ", ".join(f"{path[0]}.{field.name}" for field in fields(kind))
            raise UserError(f"set {path[0]!r} of {where} by its own options: {options}")
        setting: Any = with_option(inner, path[1:], value, where)
    elif len(path) > 1:
        raise UserError(f"option {path[0]!r} of {where} has no options of its own")
    else:
        setting = parse(value, kind, path[0], where)
    changed = cast(Made, replace(cast(Any, made), **{name: setting}))
    if isinstance(setting, int | float) and not abs(setting) <= _MOST:  # also not a number
        raise UserError(
            f"{path[0]} of {where} must lie between {-_MOST:g} and {_MOST:g}, got {shown(setting)}"
        )
    return changed


def _written(field: Field[Any]) -> str:
    """An option's name on the command line."""
    return str(field.metadata.get("option", field.name))


def _is_settable(made: object, name: str) -> bool:
    kind = _kind(made, name)
    return kind in _PLAIN or is_dataclass(kind)


def _kind(made: object, name: str) -> Any:
    """The type of an option: of its value, or what its type hint allows beside `None`."""
    value = getattr(made, name)
    if is_dataclass(value):
        return type(value)
    hint = get_type_hints(type(made))[name]
    return next((kind for kind in get_args(hint) if kind is not NoneType), hint)


def parse(value: str, kind: Any, key: str, where: str) -> Any:
    """The value of an option.

    Args:
        value: as text.
        kind: its type, one of those that are written as one value.
        key: the option's name, for messages.
        where: whose it is, for messages.

    Returns:
        The value.

    Raises:
        UserError: if the text does not say one.
    """
    try:
        return _parsed(value, kind)
    except (KeyError, ValueError):
        raise UserError(f"{key} of {where} must be a {kind.__name__}, got {shown(value)}") from None


def _parsed(value: str, kind: Any) -> Any:
    if not value or not is_text(value):
        raise ValueError("an option has a value that can be written")
    if kind is float:
        return number(value)
    return {"true": True, "false": False}[value] if kind is bool else kind(value)


def describe(made: object) -> tuple[str, str, str]:
    """A strategy or task for a list: the first line of its docstring, its options, its source."""
    text = inspect.getdoc(type(made)) or ""
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    source = next((part for part in paragraphs if part.startswith("Source: ")), "Source: ")
    short = re.match(r"Source: (.*?\(\d{4}\)|.*)", source)
    return paragraphs[0], ", ".join(_options(made)), short[1] if short else ""


def option_names(made: object) -> list[str]:
    """The names of a strategy's or task's options on the command line."""
    return [option.partition("=")[0] for option in _options(made)]


def _options(made: object, prefix: str = "") -> list[str]:
    found: list[str] = []
    for field in fields(cast(Any, made)):
        value = getattr(made, field.name)
        if not field.init:
            continue
        if is_dataclass(value):
            found += _options(value, f"{prefix}{field.name}.")
        elif _is_settable(made, field.name):
            shown = str(value).lower() if isinstance(value, bool) else value
            shown = f"{value:.6g}" if isinstance(value, float) else shown
            found.append(f"{prefix}{_written(field)}={shown}")
    return found
