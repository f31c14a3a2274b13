"""Checkpoints: a folder for each step, one file in it for each process.

A checkpoint is written under a temporary name by all processes and renamed by the first, after
all of them have written, so that one that can be seen is whole.
"""

import re
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING

import torch

from grawa.averager import Averager
from grawa.errors import UserError
from grawa.lab.files import replacing
from grawa.lab.train.averaged import ConsensusAverage

if TYPE_CHECKING:
    from grawa.lab.train.worker import Worker

SCHEMA = 2
"""Version of what checkpoints hold; raised when an entry changes its meaning."""

_NAME = re.compile(r"step-(\d{8})")


def save(
    folder: Path,
    workers: "list[Worker]",
    averager: Averager,
    average: ConsensusAverage | None,
    process: int,
) -> Path:
    """Saves all that is needed to resume bit for bit; every process must call it.

    Returns:
        The checkpoint's folder.
    """
    final = folder / f"step-{averager.step:08d}"
    building = folder / f".{final.name}.tmp"
    building.mkdir(parents=True, exist_ok=True)
    state = {
        "schema": SCHEMA,
        "workers": [worker.state_dict() for worker in workers],
        "averager": averager.state_dict(),
        "average": average.state_dict() if average else None,
    }
    with replacing(_file(building, process)) as temporary:
        torch.save(state, temporary)
    averager.barrier()
    if process == 0 and not final.exists():
        building.rename(final)
    averager.barrier()
    return final


def restore(
    found: Path,
    workers: "list[Worker]",
    averager: Averager,
    average: ConsensusAverage | None,
    process: int,
) -> None:
    """Goes back to a checkpoint; every process must call it.

    Raises:
        UserError: if it is broken, of another version, or of other numbers of processes or workers.
    """
    path = _file(found, process)
    if not path.exists():
        raise UserError(f"{found} has no part for process {process}; resume with as many processes")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, UnpicklingError) as error:
        cause = str(error).splitlines()[0]
        raise UserError(
            f"{path} can't be read ({cause}); remove {found} to resume from the one before it"
        ) from None
    if state.get("schema") != SCHEMA:
        raise UserError(
            f"{found} was saved by another version of grawa, which can resume it; this one can "
            "report and evaluate the run"
        )
    if len(state["workers"]) != len(workers):
        raise UserError(
            f"{found} has {len(state['workers'])} workers per process, not {len(workers)}; resume "
            "with the same numbers of workers and processes"
        )
    for worker, saved in zip(workers, state["workers"], strict=True):
        worker.load_state_dict(saved)
    averager.load_state_dict(state["averager"])
    if average:
        average.load_state_dict(state["average"])


def latest(folder: Path) -> Path | None:
    """The last whole checkpoint, if there is one."""
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)]
    return max(found, default=None)


def step_of(checkpoint: Path) -> int:
    """The step at which a checkpoint was made."""
    return int(checkpoint.name.removeprefix("step-"))


def _file(folder: Path, process: int) -> Path:
    return folder / f"process-{process}.pt"
