"""The training loop of one process, which hosts one or more workers, as a stream of events."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from grawa.averager import Averager
from grawa.errors import UserError
from grawa.probe import evaluating
from grawa.protocols import Strategy
from grawa.round_report import RoundReport
from grawa.tasks import Data, Task
from grawa.train.batches import shard
from grawa.train.checkpoint import latest, restore, save
from grawa.train.settings import Settings
from grawa.train.worker import Worker

StrategyFor = Callable[[Task, Data, list[Worker]], Strategy]
"""Makes the strategy, once data and hosted workers are there for its probe."""


@dataclass(frozen=True, kw_only=True)
class Started:
    """All workers are ready to train.

    Attributes:
        step: 0, or the step of the checkpoint at which training goes on.
        workers: N.
        processes: how many processes they live in.
        parameters: of the model, those that are trained.
        device: where this process trains.
    """

    step: int
    workers: int
    processes: int
    parameters: int
    device: str


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The end of a run.

    Attributes:
        error: the task's metric of the consensus.
        consensus: its state dict.
        step: local steps made.
        round: rounds made.
    """

    error: float
    consensus: dict[str, Tensor]
    step: int
    round: int


Event = Started | RoundReport | Finished


def train(
    task: Task,
    strategy_for: StrategyFor,
    settings: Settings,
    *,
    device: torch.device | None = None,
    checkpoints: Path | None = None,
) -> Iterator[Event]:
    """Trains the workers hosted by this process, together with the other processes.

    Args:
        task: what is learnt.
        strategy_for: makes the strategy.
        settings: how.
        device: where this process trains; the CPU by default.
        checkpoints: the folder for checkpoints, where training goes on if there is one already.

    Yields:
        That it has started, a report after each round, and at the end what came of it.

    Raises:
        UserError: if the number of workers is not a multiple of the number of processes.
    """
    processes, process = _world()
    if settings.workers % processes:
        raise UserError(
            f"{settings.workers} workers can't be spread evenly over {processes} processes"
        )
    hosted = settings.workers // processes
    device = device or torch.device("cpu")
    data = load(task, settings, device)
    shards = deal(task, data, settings)
    indices = range(process * hosted, (process + 1) * hosted)
    workers = [Worker(i, task, data, shards[i], settings, device) for i in indices]
    reports: list[RoundReport] = []
    averager = Averager(
        [worker.model for worker in workers],
        [worker.optimizer for worker in workers],
        strategy_for(task, data, workers),
        sync_every=settings.sync_every,
        guard=settings.guard,
        buffers=settings.buffers,
        timeout=settings.timeout,
        measure_distance=True,
        on_round=[reports.append],
    )
    found = latest(checkpoints) if checkpoints else None
    if found:
        restore(found, workers, averager, process)
    yield Started(
        step=averager.step,
        workers=settings.workers,
        processes=processes,
        parameters=sum(p.numel() for p in workers[0].model.parameters() if p.requires_grad),
        device=str(device),
    )
    with averager:
        while averager.step < settings.steps:
            _step(workers, averager)
            for report in reports:
                if checkpoints and _is_due(report.round, settings.checkpoint_every):
                    save(checkpoints, workers, averager, process)
                yield report
            reports.clear()
    yield from reports  # the round after the last steps
    yield finish(averager, task, data)


def _step(workers: list[Worker], averager: Averager) -> None:
    """One local step of every hosted worker; a round follows it when one is due."""
    losses = [worker.backward(averager.step + 1) for worker in workers]
    averager.record_loss(torch.stack(losses))
    for worker in workers:
        worker.move()


def _is_due(round_number: int, every: int) -> bool:
    return every > 0 and round_number % every == 0


def deal(task: Task, data: Data, settings: Settings) -> list[Tensor]:
    """Each worker's samples, checked to be enough; and faults, checked to suit the task.

    Returns:
        N index tensors.

    Raises:
        UserError: if a worker has fewer samples than a batch, or a fault needs labels.
    """
    if any(fault.kind == "wrong-labels" for fault in settings.faults) and task.num_classes < 2:
        raise UserError("the fault wrong-labels needs a task with labels")
    targets = data.train_targets.cpu()
    shards = shard(targets, settings.workers, settings.shards, settings.seed)
    for index, samples in enumerate(shards):
        if len(samples) < settings.batch_size:
            raise UserError(
                f"worker {index} would have {len(samples)} training samples, fewer than a batch "
                f"of {settings.batch_size}; take fewer workers, smaller batches or more samples"
            )
    return shards


def finish(averager: Averager, task: Task, data: Data) -> Finished:
    """Measures the consensus and keeps it; every process must call it."""
    with averager.consensus_applied() as model, evaluating(model):
        return Finished(
            error=task.measure(model, data),
            consensus={key: value.clone() for key, value in model.state_dict().items()},
            step=averager.step,
            round=averager.round,
        )


def load(task: Task, settings: Settings, device: torch.device) -> Data:
    """The task's data, floating-point tensors in the run's dtype, on the device."""
    dtype = getattr(torch, settings.dtype)
    return Data(
        *(
            tensor.to(device, dtype if tensor.is_floating_point() else None)
            for tensor in task.data(settings.seed)
        )
    )


def _world() -> tuple[int, int]:
    """Number of processes, and which of them this is."""
    if not dist.is_initialized():
        return 1, 0
    return dist.get_world_size(), dist.get_rank()
