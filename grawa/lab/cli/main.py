"""The entry point of all commands: parses the command line, and turns errors into exit codes."""

import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from functools import partial, wraps
from importlib import import_module
from io import StringIO
from typing import Any, NoReturn

import tyro

from grawa.errors import CommunicationError, DivergedError, UserError
from grawa.lab.cli.config_file import config_from, with_defaults
from grawa.lab.cli.optional_value import with_stack_workers
from grawa.lab.train.launch import WorkerFailedError
from grawa.version import __version__

_COMMANDS = {
    "train": "run",
    "resume": "run",
    "evaluate": "evaluate",
    "compare": "compare",
    "ablate": "ablate",
    "report": "report",
    "flatness": "flatness",
    "plan": "plan",
    "wells": "wells",
    "strategies": "lists",
    "tasks": "lists",
}
"""Command -> its module, which is imported only when the command runs, since matplotlib and scipy
take a second to import."""


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits: 0 on success, 2 if the user must change something, otherwise 1.

    Args:
        args: the command line; by default the process's own.
    """
    if (sys.argv[1:] if args is None else list(args)) == ["--version"]:
        print(f"grawa {__version__}")
        sys.exit(0)
    try:
        _parse(args)()
    except UserError as error:
        _end(2, str(error))
    except (WorkerFailedError, DivergedError, CommunicationError) as error:
        _end(1, str(error))
    except KeyboardInterrupt:
        _end(130, "interrupted")
    sys.exit(0)


def _parse(args: Sequence[str] | None) -> Callable[[], None]:
    """The command with its arguments, ready to run."""
    complaint = StringIO()
    words = with_stack_workers(sys.argv[1:] if args is None else args)
    names = [name for name in _COMMANDS if words[:1] == [name]] or list(_COMMANDS)
    later = {name: _later(name) for name in names}
    defaults = config_from(words)
    if defaults is not None:
        later["train"] = with_defaults(later["train"], defaults)
    try:
        with redirect_stderr(complaint):
            chosen: Callable[[], None] = tyro.extras.subcommand_cli_from_dict(
                later,
                prog="grawa",
                description=f"Train deep networks on workers that rarely communicate "
                f"({__version__}).",
                args=words,
            )
            return chosen
    except SystemExit as stop:
        if stop.code == 0:
            raise
        _end(2, _one_line(complaint.getvalue()))


def _later(name: str) -> Callable[..., Any]:
    """A command that, when called, returns a function that runs it."""
    module = import_module(f"grawa.lab.cli.{_COMMANDS[name]}")
    run: Callable[..., None] = getattr(module, f"{name}_command")

    @wraps(run)
    def prepare(*args: Any, **kwargs: Any) -> Callable[[], None]:
        return partial(run, *args, **kwargs)

    return prepare


def _one_line(box: str) -> str:
    """The text of tyro's framed error message, up to its first horizontal rule, in one line."""
    lines = [line.strip("│╭╮╰╯ \n") for line in box.splitlines()]
    texts = [line for line in lines if line]
    title = texts[0].strip("─ ") if texts else "the command line can't be parsed"
    body: list[str] = []
    for line in texts[1:]:
        if set(line) == {"─"}:
            break
        body.append(line)
    return f"{' '.join(body) or title}; see grawa --help"


def _printable(message: str) -> str:
    """A message in one line, in which names can't move the cursor."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)


def _end(code: int, message: str) -> NoReturn:
    print(f"grawa: {_printable(message)}", file=sys.stderr)
    sys.exit(code)
