"""What the integrations share: checks of a trainer, no averaging by DDP, and workers' states."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch.distributed as dist
from torch import nn

from grawa.averager import Averager
from grawa.errors import UserError
from grawa.warn import warn


def check_processes(known: int, advice: str) -> None:
    """Refuses a trainer that knows of fewer processes than there are, so that it deals no data.

    Args:
        known: the number of processes, as the trainer says.
        advice: what to do about it.

    Raises:
        UserError: if there are others.
    """
    there = dist.get_world_size() if dist.is_initialized() else 1
    if there != known:
        raise UserError(
            f"there are {there} processes, and the trainer knows of {known}, so they would all "
            f"train on the same data: {advice}"
        )


def unsynced(model: nn.Module) -> AbstractContextManager[None]:
    """A block in which DDP, if the model is wrapped in it, averages no gradients."""
    block: AbstractContextManager[None] = getattr(model, "no_sync", nullcontext)()
    return block


def restore_workers(averager: Averager, folder: Path) -> None:
    """Restores what each worker needs to go on from beside a trainer's checkpoint.

    Args:
        averager: whose workers.
        folder: with what `Averager.save` wrote; if there is nothing, a warning says so.
    """
    if averager.restore(folder) is None:
        warn(
            f"{folder} has no states of workers, as if the checkpoint was saved by another "
            "trainer: all workers start from its model, and with its optimizer state"
        )
