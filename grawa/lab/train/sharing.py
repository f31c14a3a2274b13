"""The data of a run, and which worker trains on which samples."""

import torch
import torch.distributed as dist
from torch import Tensor

from grawa.comm.elastic import Elastic
from grawa.errors import UserError
from grawa.lab.tasks import Data, Task
from grawa.lab.train.batches import shard
from grawa.lab.train.settings import Settings


def deal(task: Task, data: Data, settings: Settings) -> list[Tensor]:
    """Distributes the samples over the workers; checks their numbers, and that faults fit the task.

    Returns:
        N index tensors.

    Raises:
        UserError: if a worker has fewer samples than a batch, or a fault needs labels and the task
            has none.
    """
    for fault in settings.faults:
        if fault.needs_labels and task.num_classes < 2:
            raise UserError(f"the fault {fault} needs a task with labels")
    targets = data.train_targets.cpu()
    shards = shard(targets, settings.workers, settings.shards, settings.seed)
    for index, samples in enumerate(shards):
        size = settings.batch_size_of(index)
        if len(samples) < size:
            raise UserError(
                f"worker {index} would have {len(samples)} training samples, fewer than a batch "
                f"of {size}; use fewer workers, smaller batches or more samples"
            )
    return shards


def load(task: Task, settings: Settings, device: torch.device) -> Data:
    """The task's data on the device, with floating-point tensors in the run's dtype."""
    dtype = getattr(torch, settings.dtype)
    return Data(
        *(
            tensor.to(device, dtype if tensor.is_floating_point() else None)
            for tensor in task.data(settings.seed)
        )
    )


def spread(workers: int, elastic: Elastic | None) -> tuple[int, int, int]:
    """Spreads workers over the processes.

    Args:
        workers: N.
        elastic: who may come and go; every worker is then a process of its own.

    Returns:
        The number of processes, the number of this one, and the workers that each hosts.

    Raises:
        UserError: if N is not a multiple of the number of processes, or nobody says which worker
            this is.
    """
    if elastic is not None:
        placed = elastic.placed()
        assert placed.worker is not None, "it is complete"
        return workers, placed.worker, 1
    initialized = dist.is_initialized()
    processes, rank = (dist.get_world_size(), dist.get_rank()) if initialized else (1, 0)
    if workers % processes:
        raise UserError(f"{workers} workers can't be spread evenly over {processes} processes")
    return processes, rank, workers // processes
