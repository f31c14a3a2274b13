"""Where a command begins and ends."""

import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from functools import partial, wraps
from io import StringIO
from typing import Any, NoReturn

import tyro

from grawa.cli.ablate import ablate_command
from grawa.cli.compare import compare_command
from grawa.cli.config_file import taken_from, with_defaults
from grawa.cli.evaluate import evaluate_command
from grawa.cli.flatness import flatness_command
from grawa.cli.lists import strategies_command, tasks_command
from grawa.cli.plan import plan_command
from grawa.cli.report import report_command
from grawa.cli.run import resume_command, train_command
from grawa.cli.wells import wells_command
from grawa.errors import CommunicationError, DivergedError, UserError
from grawa.train.launch import WorkerFailedError
from grawa.version import __version__

_COMMANDS: dict[str, Callable[..., None]] = {
    "train": train_command,
    "resume": resume_command,
    "evaluate": evaluate_command,
    "compare": compare_command,
    "ablate": ablate_command,
    "report": report_command,
    "flatness": flatness_command,
    "plan": plan_command,
    "wells": wells_command,
    "strategies": strategies_command,
    "tasks": tasks_command,
}


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits: 0 if all went well, 2 if the user must change something, else 1.

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
    """The command that is asked for, ready to run."""
    complaint = StringIO()
    later: dict[str, Callable[..., Any]] = {name: _later(run) for name, run in _COMMANDS.items()}
    defaults = taken_from(sys.argv[1:] if args is None else args)
    if defaults is not None:
        later["train"] = with_defaults(later["train"], defaults)
    try:
        with redirect_stderr(complaint):
            chosen: Callable[[], None] = tyro.extras.subcommand_cli_from_dict(
                later,
                prog="grawa",
                description=f"Train deep networks on workers that rarely talk ({__version__}).",
                args=args,
            )
            return chosen
    except SystemExit as stop:
        if stop.code == 0:
            raise
        _end(2, _one_line(complaint.getvalue()))


def _later(run: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """The same command, which is only prepared when it is called."""

    @wraps(run)
    def prepare(*args: Any, **kwargs: Any) -> Callable[[], None]:
        return partial(run, *args, **kwargs)

    return prepare


def _one_line(box: str) -> str:
    """What a framed message of tyro's says, up to its first rule, in one line."""
    lines = [line.strip("│╭╮╰╯ \n") for line in box.splitlines()]
    said = [line for line in lines if line]
    title = said[0].strip("─ ") if said else "the command line can't be understood"
    body: list[str] = []
    for line in said[1:]:
        if set(line) == {"─"}:
            break
        body.append(line)
    return f"{' '.join(body) or title}; see grawa --help"


def _end(code: int, message: str) -> NoReturn:
    print(f"grawa: {message}", file=sys.stderr)
    sys.exit(code)
