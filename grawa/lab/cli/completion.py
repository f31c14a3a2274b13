"""`grawa completion`: scripts that complete the command line in a shell.

They hold all names, so that nothing of grawa is imported when a line is completed.
"""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from grawa.lab.cli import names
from grawa.lab.cli.arguments import Argument, arguments_of
from grawa.lab.cli.commands import ALL
from grawa.lab.cli.methods import METHODS
from grawa.lab.cli.parsing import summary_of

_MOST = 70
"""Letters of a description."""

LIST = "METHOD,METHOD"
"""Stands for methods that are separated by commas."""


def completion_command(shell: str) -> None:
    """Runs `grawa completion`.

    Args:
        shell: bash, zsh or fish.
    """
    lines = []
    for name, command in ALL.items():
        arguments = [each for argument in arguments_of(command) for each in _completed(argument)]
        lines.append(Line(name, _plain(summary_of(command)), arguments))
    scripts: Mapping[str, Callable[[Sequence[Line]], Iterator[str]]]
    scripts = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    print("\n".join(scripts[shell](lines)))


_BASH_BEGINS = """\
# Completes `grawa` in bash; made by `grawa completion bash`.
_grawa() {
    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD - 1]}"
    local words="" options="" head="" place="$((COMP_CWORD == 1 ? 1 : 2))"
    [[ $word == = ]] && word=""  # --option=value is three words here
    [[ $before == = ]] && before="${COMP_WORDS[COMP_CWORD - 2]}"
    case "$place ${COMP_WORDS[1]} $before" in"""

_BASH_ENDS = """\
    esac
    [[ $word == -* ]] && words="$options"
    COMPREPLY=($(compgen -P "$head" -W "$words" -- "${word#"$head"}"))
}
complete -o default -F _grawa grawa"""


@dataclass(frozen=True)
class Completed:
    """How an argument is completed.

    Args:
        option: with its dashes; "" if it is given without a name.
        help: what it is.
        metavar: what stands for its value; "" if it takes none.
        values: that it can have, as far as they are known.
        is_list: whether several are separated by commas.
        is_path: whether it names a file or folder.
    """

    option: str
    help: str
    metavar: str
    values: str
    is_list: bool
    is_path: bool


@dataclass(frozen=True)
class Line:
    """What can follow a command.

    Args:
        name: of the command.
        summary: what it does.
        arguments: that it can have.
    """

    name: str
    summary: str
    arguments: Sequence[Completed]


def _completed(argument: Argument) -> Iterator[Completed]:
    """An argument; a flag that is on by default is written in two ways."""
    metavar = argument.metavar
    is_on = argument.is_flag and argument.default is True
    for option in (argument.shown, *([f"--no-{argument.name}"] if is_on else [])):
        yield Completed(
            option="" if argument.is_positional else option,
            help=_plain(argument.help),
            metavar="" if argument.is_flag else metavar,
            values=" ".join(argument.choices or _known(metavar)),
            is_list=metavar == LIST,
            is_path=metavar in {"PATH", "FILE", "FOLDER", "RUN"},
        )


def _known(metavar: str) -> Sequence[str]:
    """The names that a metavar stands for."""
    if metavar == "TASK":
        return list(names.known_tasks())
    if metavar in {"STRATEGY", "STRATEGIES"}:
        return list(names.known_strategies())
    if metavar == LIST:
        return list(dict.fromkeys([*METHODS, *names.known_strategies()]))
    return ("auto", "cpu", "cuda") if metavar == "DEVICE" else ()


def _plain(text: str) -> str:
    """The beginning of a description, without what a shell would read in it, but for quotes."""
    plain = "".join(c for c in text if c not in '"\\`[]$')
    return plain if len(plain) <= _MOST else f"{plain[: _MOST - 3]}..."


def _bash(lines: Sequence[Line]) -> Iterator[str]:
    yield _BASH_BEGINS
    commands = " ".join(line.name for line in lines)
    yield f'    "1 "*) words="{commands}" options="--help --version" ;;'
    for line in lines:
        for argument in line.arguments:
            if argument.option and argument.values:
                head = ' head="${word%"${word##*,}"}"' if argument.is_list else ""
                yield f'    "2 {line.name} {argument.option}") words="{argument.values}"{head} ;;'
        free = [a.option for a in line.arguments if a.option and a.metavar and not a.values]
        if free:
            patterns = " | ".join(f'"2 {line.name} {option}"' for option in free)
            yield f"    {patterns}) return ;;"
        values = " ".join(a.values for a in line.arguments if not a.option)
        options = " ".join(a.option for a in line.arguments if a.option)
        yield f'    "2 {line.name} "*) words="{values}" options="{options} --help" ;;'
    yield _BASH_ENDS


def _zsh(lines: Sequence[Line]) -> Iterator[str]:
    yield "#compdef grawa"
    yield "# Completes `grawa` in zsh; made by `grawa completion zsh`."
    yield "_grawa() {"
    yield "    if ((CURRENT == 2)); then"
    yield "        local -a commands=("
    for line in lines:
        described = f"{line.name}:{line.summary.replace(':', '')}"
        yield f"            {shlex.quote(described)}"
    yield "        )"
    yield "        _describe command commands"
    yield "        return"
    yield "    fi"
    yield "    local command=$words[2]"
    yield "    shift words"
    yield "    ((CURRENT--))"
    yield "    case $command in"
    for line in lines:
        yield f"    {line.name})"
        yield "        _arguments \\"
        for argument in line.arguments:
            yield f"            {shlex.quote(_zsh_form(argument))} \\"
        yield "            '--help[Show this help.]' ;;"
    yield "    esac"
    yield "}"
    yield 'if [[ $funcstack[1] == _grawa ]]; then _grawa "$@"; else compdef _grawa grawa; fi'


def _zsh_form(argument: Completed) -> str:
    """A specification for zsh's `_arguments`."""
    if not argument.metavar:
        return f"{argument.option}[{argument.help}]"
    values = f"({argument.values})" if argument.values else "_files" if argument.is_path else " "
    if argument.is_list:
        values = f"_values -s , {argument.metavar} {argument.values}"
    begin = f"{argument.option}=[{argument.help}]" if argument.option else "*"
    return f"{begin}:{argument.metavar}:{values}"


def _fish(lines: Sequence[Line]) -> Iterator[str]:
    yield "# Completes `grawa` in fish; made by `grawa completion fish`."
    yield "complete -c grawa -f"
    for line in lines:
        summary = _in_fish(line.summary)
        yield f"complete -c grawa -n __fish_use_subcommand -a {line.name} -d {summary}"
        for argument in line.arguments:
            parts = [f"complete -c grawa -n '__fish_seen_subcommand_from {line.name}'"]
            if argument.option:
                parts += [f"-l {argument.option.removeprefix('--')} -d {_in_fish(argument.help)}"]
            if argument.metavar:
                parts += ["-r -F" if argument.is_path else "-x" if argument.option else ""]
            if argument.is_list:
                parts += [f"-a '(__fish_complete_list , \"string join \\n {argument.values}\")'"]
            elif argument.values:
                parts += [f"-a '{argument.values}'"]
            yield " ".join(filter(None, parts))


def _in_fish(text: str) -> str:
    """A text as one word of fish."""
    return "'" + text.replace("'", "\\'") + "'"
