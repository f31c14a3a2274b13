"""One process of `grawa train`, as `grawa.train.launch` starts it; the launcher reports errors."""

import json
import sys
from pathlib import Path

from grawa.cli.run import run_process
from grawa.errors import CommunicationError, DivergedError, UserError
from grawa.experiments.config import TrainConfig

if __name__ == "__main__":
    table = json.loads(sys.argv[1])
    try:
        run_process(TrainConfig.from_toml(table, Path("command line")), Path(sys.argv[2]))
    except (UserError, DivergedError, CommunicationError):
        sys.exit(1)
