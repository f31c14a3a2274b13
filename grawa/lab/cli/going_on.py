"""What the user is told about a run that ends early: what is safe, and how it goes on."""

import signal
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from grawa.checkpoints.places import round_of
from grawa.errors import UserError
from grawa.lab.experiments.run_folder import RunFolder
from grawa.lab.report.console import say
from grawa.lab.train.failed import WorkerFailedError
from grawa.lab.train.stop import StoppedError
from grawa.process_group import is_first_process


def say_restart(path: Path, error: WorkerFailedError, restart: int, most: int) -> None:
    """Says that the processes of a run are started again.

    Args:
        path: the run's folder.
        error: why.
        restart: the number of the restart.
        most: how many there may be.
    """
    saved = RunFolder(path).saved()
    where = f"from the checkpoint {saved[-1].name}" if saved else "from the beginning"
    say(Console(), f"{error}: starting again {where} (restart {restart} of {most})")


@contextmanager
def saying_how_to_go_on(path: Path) -> Generator[None]:
    """Adds to what ends a run early how it goes on, if it can; one process of a run says it."""
    try:
        yield
    except WorkerFailedError as error:
        if not is_first_process() or not RunFolder(path).saved():
            raise
        raise WorkerFailedError(f"{error}; `grawa resume {path}` continues") from None
    except (StoppedError, KeyboardInterrupt) as end:
        stop = end if isinstance(end, StoppedError) else StoppedError(signal.SIGINT, saved=False)
        text = _after_stop(path, stop) if is_first_process() else ""
        raise StoppedError(stop.number, saved=stop.saved, text=text) from None


def _after_stop(path: Path, stop: StoppedError) -> str:
    folder, name = RunFolder(path), stop.number.name
    saved = folder.saved()
    if not folder.events():
        return f"ended by {name} before the run began: nothing was written"
    if not saved:
        return f"ended by {name} before the first checkpoint: `grawa resume {path}` begins anew"
    last, continues = round_of(saved[-1]), f"`grawa resume {path}` continues"
    if stop.saved:
        return f"stopped by {name} after round {last}; its checkpoint is saved: {continues}"
    return f"ended by {name}; the last checkpoint is that of round {last}: {continues}"


@contextmanager
def saying_what_is_safe(folder: RunFolder) -> Generator[None]:
    """Turns an error, such as that of a full disk, into one line that says what is safe."""
    try:
        yield
    except OSError as error:
        saved = folder.saved()
        safe = f"the checkpoint of round {round_of(saved[-1])} is" if saved else "no checkpoint is"
        raise UserError(
            f"{error.filename or folder.path} can't be written: {error.strerror or error}; {safe} "
            f"safe. When that is mended, `grawa resume {folder.path}` continues the run"
        ) from error
