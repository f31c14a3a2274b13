"""Where a command begins and ends."""

import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import tyro

from grawa.cli.evaluate import evaluate_command
from grawa.cli.lists import strategies_command, tasks_command
from grawa.cli.run import resume_command, train_command
from grawa.errors import CommunicationError, DivergedError, UserError
from grawa.train.launch import WorkerFailedError
from grawa.version import __version__

_COMMANDS: dict[str, Callable[..., Any]] = {
    "train": train_command,
    "resume": resume_command,
    "evaluate": evaluate_command,
    "strategies": strategies_command,
    "tasks": tasks_command,
}


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits: 0 if all went well, 2 if the user must change something, else 1.

    Args:
        args: the command line; by default the process's own.
    """
    try:
        tyro.extras.subcommand_cli_from_dict(
            _COMMANDS,
            prog="grawa",
            description=f"Train deep networks on several workers that rarely talk ({__version__}).",
            args=args,
        )
    except UserError as error:
        _end(2, str(error))
    except (WorkerFailedError, DivergedError, CommunicationError) as error:
        _end(1, str(error))
    except KeyboardInterrupt:
        _end(130, "interrupted")
    sys.exit(0)


def _end(code: int, message: str) -> NoReturn:
    print(f"grawa: {message}", file=sys.stderr)
    sys.exit(code)
