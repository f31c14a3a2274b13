"""One process of `grawa train`, as `grawa.lab.train.launch` starts it; the launcher reports errors.

Arguments: the configuration as JSON; the run's folder, and from which checkpoint it continues, as
JSON; and the command that the user gave.
"""

import json
import signal
import sys
from pathlib import Path

from grawa.errors import CommunicationError, DivergedError, UserError
from grawa.lab.cli.run import run_process
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.train.checkpoint import Start

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher gets it too, and ends all processes
    table = json.loads(sys.argv[1])
    start = json.loads(sys.argv[2])
    sys.argv = sys.argv[3:]  # environment.json records the user's command
    try:
        config = TrainConfig.from_toml(table, Path("command line"))
        run_process(config, Path(start["path"]), Start(**start["start"]))
    except (UserError, DivergedError, CommunicationError):
        sys.exit(1)
