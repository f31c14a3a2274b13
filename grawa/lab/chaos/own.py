"""One process of `grawa chaos module:function`: calls the function, and keeps a journal of rounds.

Arguments: module:function; the folder for its checkpoints; the journal.
"""

import json
import math
import os
import signal
import sys
from collections.abc import Callable
from inspect import signature
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import record

from grawa.errors import UserError
from grawa.lab import own
from grawa.process_group import is_first_process
from grawa.rounds.report import RoundReport

Function = Callable[[Path, Callable[[RoundReport], None]], float]
"""A function of the user's own: see `grawa chaos --help`."""


class Journal:
    """The record of a job's rounds, which the first process writes.

    Args:
        path: the file to which lines are added.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._begun = path, False

    def note(self, report: RoundReport) -> None:
        """Adds a round; before the first, that the job begins or continues there."""
        if not self._begun:
            self._begun = True
            self.add({"kind": "started", "round": report.round - 1})
        self.add({"kind": "round", **report.as_json()})

    def add(self, event: dict[str, object]) -> None:
        """Adds a line."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")


def function(what: str) -> Function:
    """Imports a function.

    Args:
        what: module:function, or file.py:function.

    Returns:
        The function.

    Raises:
        UserError: if there is none, or it does not take a folder and a function.
    """
    found: Function = own.load(what)
    try:
        signature(found).bind(Path(), print)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{what} can't be called with a folder and with what it is to call after each round: "
            f"{error}"
        ) from None
    return found


@record
def main(what: str, folder: str, path: str) -> None:
    """Calls the function in this process."""
    journal = Journal(Path(path))
    error = function(what)(Path(folder), journal.note if is_first_process() else _ignore)
    if not isinstance(error, int | float) or not math.isfinite(error):
        raise UserError(f"{what} must return the final error, a finite number, got {error!r:.100}")
    if is_first_process():
        journal.add({"kind": "finished", "error": float(error)})


def _ignore(report: RoundReport) -> None:
    """Only the first process keeps the journal."""


if __name__ == "__main__":
    # Ctrl-C has been blocked until now if grawa's own launcher has started this process.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    sys.path.insert(0, os.getcwd())
    main(*sys.argv[1:4])
