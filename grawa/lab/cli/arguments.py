"""The arguments of a command, which the signature and the docstring of its function declare.

A parameter whose type is a dataclass stands for the fields of that class, and so does a field. What
has no default is positional; all else is an option. Of the texts in `Annotated[type, ...]`, one
that begins with -- is the option's name; the next stands for the value in the help, where [...] is
positional too, and may be left out, and X... takes several values in a row; one more is the help.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from inspect import Parameter, signature
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from docstring_parser import parse, parse_from_object

_ARGUMENTS, OPTIONS = "arguments", "options"
"""Headings of parameters, and of fields without one of their own."""


@dataclass(frozen=True, kw_only=True)
class Argument:
    """An argument of a command.

    Attributes:
        path: the parameter, and the field in its value if that is a dataclass, and so on.
        name: on the command line, without dashes.
        hint: its type.
        default: `MISSING` if it must be given.
        is_positional: whether it is given without its name.
        takes_several: whether several values may follow one another; else each needs the name.
        metavar: what stands for its value in the help.
        help: what it is.
        heading: under which the help lists it.
    """

    path: tuple[str, ...]
    name: str
    hint: Any
    default: object
    is_positional: bool
    takes_several: bool
    metavar: str
    help: str
    heading: str

    @property
    def key(self) -> str:
        """A name that no other argument of the command has."""
        return ".".join(self.path)

    @property
    def shown(self) -> str:
        """How messages call it."""
        return self.metavar if self.is_positional else f"--{self.name}"

    @property
    def is_flag(self) -> bool:
        """Whether it is an option without a value."""
        return self.hint is bool

    @property
    def item(self) -> Any:
        """The type of a single value; of several, if it takes these."""
        return get_args(self.hint)[0] if get_origin(self.hint) is tuple else self.hint

    @property
    def choices(self) -> Sequence[str]:
        """All values that it can have, if these can be listed."""
        return get_args(self.hint) if get_origin(self.hint) is Literal else ()


def arguments_of(command: Callable[..., object]) -> list[Argument]:
    """The arguments of a command.

    Args:
        command: its function.

    Returns:
        The arguments, in the order of the function's parameters and the dataclasses' fields.
    """
    hints, helps = get_type_hints(command, include_extras=True), _helps_of(command)
    found: list[Argument] = []
    for name, parameter in signature(command).parameters.items():
        default = MISSING if parameter.default is Parameter.empty else parameter.default
        found += _arguments((name,), hints[name], default, helps.get(name, ""), OPTIONS)
    return found


def _arguments(
    path: tuple[str, ...], hint: Any, default: object, help_text: str, heading: str
) -> list[Argument]:
    if is_dataclass(_plain(hint)):
        return _fields(path, _plain(hint), default)
    return [_argument(path, hint, default, help_text, heading)]


def _fields(path: tuple[str, ...], kind: Any, default: object) -> list[Argument]:
    """The arguments that the fields of a dataclass stand for."""
    headings: Mapping[str, str] = getattr(kind, "HEADINGS", {})
    hints = get_type_hints(kind, include_extras=True)
    helps = {name: text for base in reversed(kind.mro()) for name, text in _helps_of(base).items()}
    heading, found = OPTIONS if len(path) == 1 else path[-1], []
    for field in fields(kind):
        heading = headings.get(field.name, heading)
        own = field.default if default is MISSING else getattr(default, field.name)
        text = helps.get(field.name, "")
        found += _arguments((*path, field.name), hints[field.name], own, text, heading)
    return found


def _argument(
    path: tuple[str, ...], hint: Any, default: object, help_text: str, heading: str
) -> Argument:
    metadata = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    texts = [text for text in metadata if isinstance(text, str)]
    name = path[-1].replace("_", "-")
    if texts and texts[0].startswith("--"):
        name = texts.pop(0).removeprefix("--")
    metavar = texts[0] if texts else _metavar(_plain(hint), name)
    is_positional = default is MISSING or metavar.startswith("[")
    return Argument(
        path=path,
        name=name,
        hint=_plain(hint),
        default=default,
        is_positional=is_positional,
        takes_several=metavar.endswith("..."),
        metavar=metavar.strip("[]").removesuffix("..."),
        help=" ".join((texts[1] if len(texts) > 1 else help_text).split()),
        heading=_ARGUMENTS if is_positional and heading == OPTIONS else heading,
    )


def _plain(hint: Any) -> Any:
    """A type without what `Annotated` adds."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _metavar(hint: Any, name: str) -> str:
    """What stands for an argument's value in the help, if nothing else is declared."""
    if get_origin(hint) is tuple:
        return f"{_metavar(get_args(hint)[0], name)}..."
    if get_origin(hint) is Literal:
        return "|".join(get_args(hint))
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    if len(kinds) == 1:
        return _metavar(kinds[0], name)
    return {int: "N", float: "X", Path: "PATH"}.get(hint, name.rpartition("-")[2].upper())


def _helps_of(declared: Callable[..., object]) -> dict[str, str]:
    """What the docstrings say of a function's parameters, or of a dataclass's fields."""
    if isinstance(declared, type) and not is_dataclass(declared):
        return {}
    is_class = isinstance(declared, type)
    found = parse_from_object(declared) if is_class else parse(declared.__doc__ or "")
    return {param.arg_name: param.description or "" for param in found.params}


def held_by(command: Callable[..., object], values: Mapping[str, object]) -> dict[str, object]:
    """Puts the values of arguments into the parameters that they belong to.

    Args:
        command: the function.
        values: `Argument.key` -> value, of all arguments.

    Returns:
        Parameter -> value; the dataclass, where that is its type.
    """
    hints = get_type_hints(command)
    return {name: _held((name,), hints[name], values) for name in signature(command).parameters}


def _held(path: tuple[str, ...], kind: Any, values: Mapping[str, object]) -> object:
    if not is_dataclass(kind):
        return values[".".join(path)]
    hints = get_type_hints(kind)
    own = {f.name: _held((*path, f.name), hints[f.name], values) for f in fields(kind)}
    return kind(**own)  # type: ignore[operator]
