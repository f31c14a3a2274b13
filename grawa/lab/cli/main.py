"""The entry point of all commands: parses the command line, and turns errors into exit codes."""

import re
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from functools import partial, wraps
from importlib import import_module
from io import StringIO
from typing import Any, NoReturn

import tyro

from grawa.errors import CommunicationError, DivergedError, UserError
from grawa.lab import own
from grawa.lab.cli.config_file import config_from, with_defaults
from grawa.lab.cli.optional_value import with_stack_workers
from grawa.lab.cli.output import forgiving_output
from grawa.lab.train.launch import WorkerFailedError
from grawa.lab.train.stop import StoppedError
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
    "chaos": "chaos",
    "strategies": "lists",
    "tasks": "lists",
}
"""Command -> its module, which is imported only when the command runs, since matplotlib and scipy
take a second to import."""


_WRITES_FILES = ("train", "resume", "compare", "ablate", "report", "flatness", "wells", "chaos")
"""Commands that have succeeded even if what they print could not be written."""


_WRONG_VALUE = re.compile(r"Error parsing (--\S+): no type matching .* from \['(.*?)'\]")
"""What tyro says of a value that is none of the types that an option can have."""


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits: 0 on success, 2 if the user must change something, otherwise 1.

    A command that a signal has stopped exits as a shell expects it, such as with 143 for SIGTERM.

    Args:
        args: the command line; by default the process's own.
    """
    words = sys.argv[1:] if args is None else list(args)
    with forgiving_output() as output:
        code, message = _run(words)
        if output is not None:
            output.flush()
            if output.error is not None and code == 0:
                code = 0 if words[:1] and words[0] in _WRITES_FILES else 1
                message = f"not all output could be written: {output.error.strerror}"
        if message:
            print(f"grawa: {_printable(message)}", file=sys.stderr)
    sys.exit(code)


def _run(words: Sequence[str]) -> tuple[int, str]:
    """Runs a command; returns the exit code, and what to say about it."""
    try:
        if list(words) == ["--version"]:
            print(f"grawa {__version__}")
        else:
            _parse(words)()
    except UserError as error:
        return 2, str(error)
    except (WorkerFailedError, DivergedError, CommunicationError) as error:
        return 1, str(error)
    except StoppedError as stop:
        return stop.exit_code, str(stop)
    except KeyboardInterrupt:
        return 130, "interrupted"
    return 0, ""


def _parse(args: Sequence[str]) -> Callable[[], None]:
    """The command with its arguments, ready to run."""
    complaint = StringIO()
    words = with_stack_workers(args) or ["--help"]
    names = [name for name in _COMMANDS if words[:1] == [name]] or list(_COMMANDS)
    if len(names) > 1 and not words[0].startswith("-"):
        close = own.meant(words[0], _COMMANDS)
        raise UserError(f"there is no command {words[0]!r}{close}; there are {', '.join(names)}")
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
            return lambda: None  # help was printed
        told = " ".join(["grawa", *names]) if len(names) == 1 else "grawa"
        raise UserError(_one_line(complaint.getvalue(), f"see {told} --help")) from None


def _later(name: str) -> Callable[..., Any]:
    """A command that, when called, returns a function that runs it."""
    module = import_module(f"grawa.lab.cli.{_COMMANDS[name]}")
    run: Callable[..., None] = getattr(module, f"{name}_command")

    @wraps(run)
    def prepare(*args: Any, **kwargs: Any) -> Callable[[], None]:
        return partial(run, *args, **kwargs)

    return prepare


def _one_line(box: str, then: str) -> str:
    """What tyro's framed error message says, in one line.

    Args:
        box: the message: a title, a text, and after a horizontal rule the options that it suggests.
        then: what to do next.

    Returns:
        The line.
    """
    lines = [line.strip("│╭╮╰╯|+ \n") for line in box.splitlines()]  # ASCII where need be
    title, *texts = [line for line in lines if line] or ["the command line can't be parsed"]
    parts: list[list[str]] = [[]]
    for line in texts:
        if set(line) <= {"─", "-"}:
            parts.append([])
        else:
            parts[-1].append(line)
    body, *rest = [part for part in parts if part] or [[title.strip("─- ")]]
    said = " ".join(body)
    if wrong := _WRONG_VALUE.match(said):
        said = f"{wrong[1]} can't be {wrong[2]}"
    meant = [part[1].partition(" ")[0] for part in rest if part[0] == "Perhaps you meant:"]
    close = f" (did you mean {meant[0]}?)" if meant else ""
    return f"{said}{close}; {then}"


def _printable(message: str) -> str:
    """A message in one line, in which names can't move the cursor."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
