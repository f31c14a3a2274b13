"""The entry point of all commands: parses the command line, and turns errors into exit codes."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn

from grawa.errors import CommunicationError, DivergedError, UserError
from grawa.lab import own
from grawa.lab.cli.commands import ALL, COMMANDS, named
from grawa.lab.cli.config_file import config_from
from grawa.lab.cli.optional_value import with_stack_workers
from grawa.lab.cli.output import forgiving_output
from grawa.lab.cli.parsing import overview, parsed
from grawa.lab.train.failed import WorkerFailedError
from grawa.lab.train.stop import StoppedError
from grawa.version import __version__

_WRITES_FILES = ("train", "resume", "compare", "ablate", "report", "flatness", "wells", "chaos")
"""Commands that have succeeded even if what they print could not be written."""


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
    """What a command line asks for, ready to be done."""
    words = with_stack_workers(args) or ["--help"]
    if words[0] == "help":
        words = [*words[1:2], "--help"]
    name = words[0]
    if name in ("-h", "--help"):
        return overview(COMMANDS).print_help
    if name == "--version":
        return partial(print, f"grawa {__version__}")
    command = named(name)
    if command is None:
        close = own.meant(name, ALL)
        raise UserError(f"there is no command {name!r}{close}; there are {', '.join(ALL)}")
    config = config_from(words)
    try:
        return parsed(
            f"grawa {name}", command, words[1:], {} if config is None else {"config": config}
        )
    except SystemExit:
        return lambda: None  # help was printed


def _printable(message: str) -> str:
    """A message in one line, in which names can't move the cursor."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
