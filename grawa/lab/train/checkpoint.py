"""Checkpoints: a folder for each step, with one file for each process.

All processes write a checkpoint under a temporary name, and the first process renames it after all
have written. So a checkpoint with its final name is complete.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch

from grawa.errors import UserError
from grawa.lab.train.averaged import ConsensusAverage
from grawa.rounds.engine import Engine
from grawa.saving.whole import replacing

if TYPE_CHECKING:
    from grawa.lab.train.worker import Worker

SCHEMA = 2
"""Version of what checkpoints hold; raised when an entry changes its meaning."""

_NAME = re.compile(r"step-(\d{8})")


def save(
    folder: Path,
    workers: "list[Worker]",
    engine: Engine,
    average: ConsensusAverage | None,
    process: int,
    *,
    stacked: bool,
) -> Path:
    """Saves all that is needed to resume bit for bit; every process must call it.

    Returns:
        The checkpoint's folder.
    """
    final = folder / f"step-{engine.step:08d}"
    building = folder / f".{final.name}.tmp"
    building.mkdir(parents=True, exist_ok=True)
    state = {
        "schema": SCHEMA,
        "workers": [worker.state_dict() for worker in workers],
        "engine": engine.state_dict(),
        "average": average.state_dict() if average else None,
        "stacked": stacked,
    }
    with replacing(_file(building, process)) as temporary:
        torch.save(state, temporary)
    engine.gather(0.0)  # waits for all processes
    if process == 0 and not final.exists():
        building.rename(final)
    engine.gather(0.0)  # waits for all processes
    return final


def read(found: Path, process: int, hosted: int) -> dict[str, Any]:
    """Reads a process's part of a checkpoint of a run with `hosted` workers per process.

    Returns:
        What `restore` takes; "stacked" says whether the workers' local steps were stacked.

    Raises:
        UserError: if it is broken, of another version, or saved by another number of processes or
            workers.
    """
    path = _file(found, process)
    if not path.exists():
        raise UserError(
            f"{found} has no file for process {process}; resume with the same number of processes"
        )
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, UnpicklingError) as error:
        cause = str(error).splitlines()[0]
        raise UserError(
            f"{path} can't be read ({cause}); remove {found} to resume from the checkpoint before"
        ) from None
    if state.get("schema") != SCHEMA:
        raise UserError(
            f"{found} was saved by another version of grawa, which can resume it; this one can "
            "report and evaluate the run"
        )
    if len(state["workers"]) != hosted:
        raise UserError(
            f"{found} has {len(state['workers'])} workers per process, not {hosted}; resume "
            "with the same numbers of workers and processes"
        )
    state.setdefault("stacked", False)  # missing in checkpoints of earlier versions
    return state


def restore(
    state: Mapping[str, Any],
    workers: "list[Worker]",
    engine: Engine,
    average: ConsensusAverage | None,
) -> None:
    """Restores what `read` returned; every process must call it."""
    for worker, saved in zip(workers, state["workers"], strict=True):
        worker.load_state_dict(saved)
    engine.load_state_dict(state["engine"])
    if average:
        average.load_state_dict(state["average"])


def latest(folder: Path) -> Path | None:
    """The last complete checkpoint, if there is one."""
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)]
    return max(found, default=None)


def step_of(checkpoint: Path) -> int:
    """The step at which a checkpoint was made."""
    return int(checkpoint.name.removeprefix("step-"))


def _file(folder: Path, process: int) -> Path:
    return folder / f"process-{process}.pt"
