"""Parses a command's line, and prints its help: `argparse`, told by the function's signature."""

import shutil
from argparse import SUPPRESS, ArgumentParser, BooleanOptionalAction, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, replace
from functools import partial, reduce
from textwrap import fill, indent, wrap
from typing import TYPE_CHECKING, Any, NoReturn

from docstring_parser import parse

from grawa.errors import UserError
from grawa.lab.cli.arguments import OPTIONS, Argument, arguments_of, held_by
from grawa.lab.experiments.option_types import read_value
from grawa.lab.own import meant

if TYPE_CHECKING:
    from argparse import _ArgumentGroup

_WIDEST = 100
"""Columns of the help; longer lines are hard to read."""


class _Formatter(RawDescriptionHelpFormatter):
    """Leaves names with hyphens, such as --stack-workers, in one line."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrap(text, width, break_on_hyphens=False)


class Parser(ArgumentParser):
    """A parser whose help is wrapped to the terminal, and which raises `UserError`.

    Args:
        prog: the command.
        form: of its line, after the command.
        text: what it does, in paragraphs.
        examples: command lines.
    """

    def __init__(self, prog: str, form: str, text: str, examples: str) -> None:
        width = min(shutil.get_terminal_size().columns, _WIDEST)
        parts = [
            fill(" ".join(part.split()), width, break_on_hyphens=False)
            for part in text.split("\n\n")
        ]
        if examples:
            parts.append(f"for example:\n{indent(examples, '  ')}")
        super().__init__(
            prog=prog,
            usage=f"{prog} {form}",
            description="\n\n".join(parts),
            formatter_class=partial(_Formatter, max_help_position=24, width=width),
            add_help=False,
            allow_abbrev=False,
            argument_default=SUPPRESS,
        )
        self._headed: dict[str, _ArgumentGroup] = {}

    def under(self, heading: str) -> "_ArgumentGroup":
        """The part of the help with this heading."""
        if heading not in self._headed:
            self._headed[heading] = self.add_argument_group(heading)
        return self._headed[heading]

    def error(self, message: str) -> NoReturn:
        """Refuses the command line."""
        raise UserError(f"{message.removeprefix('argument ')}; see `{self.prog} --help`")


def parsed(
    prog: str,
    command: Callable[..., None],
    words: Sequence[str],
    defaults: Mapping[str, object],
) -> Callable[[], None]:
    """Parses a command's line; for `--help` it prints the help and raises `SystemExit`.

    Args:
        prog: how the command is called.
        command: its function.
        words: the line, without `prog`.
        defaults: parameter of the function -> values, as attributes, that override its defaults.

    Returns:
        The call that the line asks for; a line that asks for none raises a `UserError`.
    """
    arguments = [_with_default(argument, defaults) for argument in arguments_of(command)]
    parser = _parser(prog, command, arguments)
    found, rest = parser.parse_known_intermixed_args([_with_dashes(word) for word in words])
    if rest:
        parser.error(_unknown(rest, arguments))
    given = {key: value for key, value in vars(found).items() if value != []}
    values = {a.key: _value(parser, a, given) for a in arguments}
    return partial(command, **held_by(command, values))


def _with_default(argument: Argument, defaults: Mapping[str, object]) -> Argument:
    parameter, *names = argument.path
    if parameter not in defaults:
        return argument
    return replace(argument, default=reduce(getattr, names, defaults[parameter]))


def overview(commands: Mapping[str, Sequence[Callable[..., None]]]) -> Parser:
    """The help of all commands together.

    Args:
        commands: heading -> commands.

    Returns:
        What prints it.
    """
    parser = Parser(
        "grawa",
        "COMMAND [options]",
        "Train deep networks on several workers that rarely communicate. `grawa COMMAND --help` "
        "tells what a command can be asked.",
        "grawa train digits --strategy lgrawa --workers 4",
    )
    for heading, several in commands.items():
        for command in several:
            summary = summary_of(command)
            parser.under(heading).add_argument(command.__name__, nargs="?", help=summary)
    parser.under(OPTIONS).add_argument("-h", "--help", action="help", help="Show this help.")
    parser.under(OPTIONS).add_argument("--version", action="version", help="Show the version.")
    return parser


def summary_of(command: Callable[..., None]) -> str:
    """What a command does, in a sentence."""
    return parse(command.__doc__ or "").short_description or ""


def _with_dashes(word: str) -> str:
    """An option may be written with underscores, as in `config.toml`."""
    name, equals, value = word.partition("=")
    return f"{name.replace('_', '-')}{equals}{value}" if name.startswith("--") else word


def _unknown(rest: Sequence[str], arguments: Sequence[Argument]) -> str:
    """What is wrong with a line that has these words in addition."""
    option = next((word for word in rest if word.startswith("-")), "").partition("=")[0]
    if not option:
        return f"there is one argument too many: {rest[0]!r}"
    known = [argument.name for argument in arguments if not argument.is_positional]
    return f"there is no option {option}{meant(option, known, '--')}"


def _value(parser: Parser, argument: Argument, given: Mapping[str, Any]) -> object:
    """An argument's value: the one that was given, or its default."""
    if argument.key not in given:
        if argument.default is MISSING:
            parser.error(f"{argument.shown} is missing")
        return argument.default
    value = given[argument.key]
    try:
        if isinstance(value, list):
            return tuple(read_value(text, argument.item, argument.shown) for text in value)
        return value if argument.is_flag else read_value(value, argument.hint, argument.shown)
    except UserError as error:
        parser.error(str(error))


def _parser(prog: str, command: Callable[..., None], arguments: Sequence[Argument]) -> Parser:
    said = parse(command.__doc__ or "")
    text = f"{said.short_description}\n\n{said.long_description or ''}".rstrip()
    positional = [argument for argument in arguments if argument.is_positional]
    form = " ".join([*map(_form, positional), "[options]"])
    examples = "\n".join(example.description or "" for example in said.examples)
    parser = Parser(prog, form, text, examples)
    for argument in sorted(arguments, key=lambda argument: not argument.is_positional):
        _add(parser.under(argument.heading), argument)
    parser.under(OPTIONS).add_argument("-h", "--help", action="help", help="Show this help.")
    return parser


def _form(argument: Argument) -> str:
    """How the first line of the help shows a positional argument."""
    text = f"{argument.metavar}{'...' if argument.takes_several else ''}"
    return text if argument.default is MISSING else f"[{text}]"


def _add(group: "_ArgumentGroup", argument: Argument) -> None:
    """Adds an argument to a part of the help; `parsed` converts its value and fills in defaults."""
    name, key, text = f"--{argument.name}", argument.key, _help(argument)
    shown: dict[str, Any] = {"help": text, "metavar": argument.metavar}
    if argument.is_positional:
        group.add_argument(key, nargs="*" if argument.takes_several else "?", **shown)
    elif argument.is_flag and argument.default:
        group.add_argument(name, dest=key, action=BooleanOptionalAction, help=text)
    elif argument.is_flag:
        group.add_argument(f"--no-{argument.name}", dest=key, action="store_false", help=SUPPRESS)
        group.add_argument(name, dest=key, action="store_true", help=text)
    elif argument.takes_several:
        group.add_argument(name, dest=key, action="extend", nargs="+", **shown)
    else:
        is_repeated = argument.item is not argument.hint
        group.add_argument(name, dest=key, action="append" if is_repeated else "store", **shown)


def _help(argument: Argument) -> str:
    """What the help says of an argument, with its default if the text does not tell it."""
    default, text = argument.default, argument.help
    untold = [MISSING, None, False, ()]
    if not any(default is each for each in untold) and "by default" not in text:
        text += f" (default: {_shown(argument)})"
    return text.replace("%", "%%")


def _shown(argument: Argument) -> str:
    """A default as it would be written on the command line; lists can be wrapped."""
    default = argument.default
    if isinstance(default, tuple):
        return " ".join(map(str, default))
    if isinstance(default, float):
        return f"{default:g}"
    return f"--{argument.name}" if default is True else str(default).replace(",", ", ")
