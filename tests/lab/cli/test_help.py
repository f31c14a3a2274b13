"""Help, completion and mistakes: at once, readable at any width, with all names."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
from docstring_parser import parse

from grawa.lab.cli import names
from grawa.lab.cli.arguments import arguments_of
from grawa.lab.cli.commands import COMMANDS, named
from grawa.lab.cli.parsing import parsed
from grawa.version import __version__
from tests.lab.cli.processes import Ended, environment

NAMES = [command.__name__ for several in COMMANDS.values() for command in several]
LINES = [[], ["--help"], ["--version"], ["trian"], ["train", "digits", "--lrr", "3"]]
LINES += [[name, "--help"] for name in NAMES]

IMPORTED = f"""
import contextlib, io, sys
from grawa.lab.cli.main import main
for words in {LINES}:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        with contextlib.redirect_stderr(io.StringIO()):
            main(words)
    print(*sys.modules.keys() & {{"torch", "numpy", "matplotlib", "scipy", "sklearn", "jinja2"}})
"""


def test_help_and_mistakes_wait_for_no_import() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED],
        env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "\n" * len(LINES)


def declared(name: str) -> Callable[..., None]:
    command = named(name)
    assert command is not None
    return command


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("name", NAMES)
def test_help_fits_the_terminal(
    name: str, columns: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with patch.dict(os.environ, COLUMNS=str(columns)), pytest.raises(SystemExit) as stop:
        parsed(f"grawa {name}", declared(name), ["--help"], {})
    assert stop.value.code == 0
    text = capsys.readouterr().out
    lines = [line for line in text.splitlines() if not line.startswith("  grawa ")]  # an example
    assert len(lines) < len(text.splitlines())
    assert max(map(len, lines)) <= columns
    assert text.isascii()
    assert "None" not in text


@pytest.mark.parametrize("args", [(), ("--help",), ("-h",), ("help",)])
def test_the_help_of_all_commands_names_each(
    args: tuple[str, ...], command: Callable[..., Ended]
) -> None:
    done = command(*args)
    assert (done.code, done.err) == (0, "")
    for name in NAMES:
        assert f"\n  {name} " in done.out


def test_help_of_one_command_is_found_in_both_ways(command: Callable[..., Ended]) -> None:
    assert command("help", "train") == command("train", "--help")


def test_the_version_is_one_line(command: Callable[..., Ended]) -> None:
    assert command("--version") == Ended(0, f"grawa {__version__}\n", "")


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_is_explained(name: str) -> None:
    for argument in arguments_of(declared(name)):
        assert argument.help.endswith("."), argument.name
        assert argument.help[0].isupper() or argument.choices or argument.name == "device"


@pytest.mark.parametrize("name", NAMES)
def test_examples_can_be_typed(name: str) -> None:
    (found,) = parse(declared(name).__doc__ or "").examples
    for line in (found.description or "").splitlines():
        words = shlex.split(line.partition(" > ")[0])
        assert words[:2] == ["grawa", name]
        parsed(f"grawa {name}", declared(name), words[2:], {})


COMPLETED = {
    "grawa tr": "train",
    "grawa --v": "--version",
    "grawa train gly": "glyphs",
    "grawa train digits --sync": "--sync-every",
    "grawa train digits --no-": "--no-guard",
    "grawa train digits --lr-schedule co": "constant cosine",
    "grawa train digits --strategy = eas": "easgd",
    "grawa train digits --steps ": "",
    "grawa train ": " ".join(names.TASKS),
    "grawa train digits --strategy ": " ".join(names.STRATEGIES),
    "grawa compare digits --strategies lgrawa,dp_": "lgrawa,dp_sgd lgrawa,dp_sam",
    "grawa completion ": "bash zsh fish",
}

COMPLETE = """
source "$1"
while IFS= read -r line; do
    COMP_WORDS=($line)
    if [[ $line == *" " ]]; then COMP_WORDS+=(""); fi
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=()
    _grawa
    echo "${COMPREPLY[*]}"
done
"""


def test_bash_completes_commands_options_and_names(command: Callable[..., Ended]) -> None:
    Path("grawa.bash").write_text(command("completion", "bash").out)
    done = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", "grawa.bash"], input="\n".join(COMPLETED) + "\n",
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert dict(zip(COMPLETED, done.stdout.splitlines(), strict=True)) == COMPLETED


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_the_names_too(shell: str, command: Callable[..., Ended]) -> None:
    done = command("completion", shell)
    assert (done.code, done.err) == (0, "")
    for each in (*NAMES, *names.TASKS, *names.STRATEGIES, "sync-every", "no-guard"):
        assert each in done.out
