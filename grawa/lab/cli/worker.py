"""One process of `grawa train`, as `grawa.lab.train.launch` starts it; the launcher reports errors.

Arguments: the configuration as JSON; the run's folder, and from which checkpoint it continues, as
JSON; and the command that the user gave.
"""

import json
import signal
import sys
from pathlib import Path

from grawa.errors import CommunicationError, DivergedError, UserError
from grawa.lab.cli.output import forgiving_output
from grawa.lab.cli.process import run_process
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.train.checkpoint import Start
from grawa.lab.train.stop import StoppedError

if __name__ == "__main__":
    # Ctrl-C has been blocked until now. The launcher gets it too, and stops all processes.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    table = json.loads(sys.argv[1])
    start = json.loads(sys.argv[2])
    sys.argv = sys.argv[3:]  # environment.json records the user's command
    with forgiving_output():
        try:
            config = TrainConfig.from_toml(table, Path("command line"))
            run_process(config, Path(start["path"]), Start(**start["start"]))
        except (UserError, DivergedError, CommunicationError):
            sys.exit(1)
        except StoppedError as stop:
            sys.exit(stop.exit_code)
