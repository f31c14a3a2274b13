"""The launcher of `grawa chaos module:function` on one machine.

Arguments: the number of workers; how often they are started again; the module that each runs; and
its command line.
"""

import sys

from grawa.errors import UserError
from grawa.lab.train.failed import WorkerFailedError
from grawa.lab.train.fork_server import Command
from grawa.lab.train.launch import launch
from grawa.lab.train.stop import StoppedError


def main(workers: int, restarts: int, module: str, *arguments: str) -> None:
    """Starts the workers, and exits with what came of them."""
    try:
        command = Command(module, arguments, ["grawa", "torch._dynamo"])
        launch(command, workers, max_restarts=restarts, on_restart=_say)
    except (UserError, WorkerFailedError) as error:
        sys.exit(f"{error}")
    except StoppedError as stop:
        sys.exit(stop.exit_code)


def _say(error: WorkerFailedError, restart: int) -> None:
    print(f"{error}: starting again (restart {restart})", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
