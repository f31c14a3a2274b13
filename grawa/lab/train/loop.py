"""The training loop of one process, which hosts one or more workers, as a stream of events."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from weakref import WeakMethod

import torch
import torch.distributed as dist
from torch import Tensor, nn

from grawa.averager import Averager
from grawa.errors import UserError
from grawa.lab.simulate.clock import VirtualClock
from grawa.lab.tasks import Data, Task
from grawa.lab.train.averaged import ConsensusAverage
from grawa.lab.train.batches import shard
from grawa.lab.train.checkpoint import latest, restore, save
from grawa.lab.train.ending import Ending
from grawa.lab.train.hosted import Hosted, Looped
from grawa.lab.train.settings import Settings
from grawa.lab.train.stacked import Stacked
from grawa.lab.train.worker import Worker
from grawa.modes import evaluating
from grawa.rounds.clock import WallClock
from grawa.rounds.report import RoundReport
from grawa.strategies.protocol import Strategy

StrategyFor = Callable[[Task, Data], Strategy]
"""Makes the strategy, once the data are there for its probe."""


@dataclass(frozen=True, kw_only=True)
class Started:
    """All workers are ready to train.

    Attributes:
        step: 0, or the step of the checkpoint at which training goes on.
        workers: N.
        processes: how many processes they live in.
        parameters: of the model, those that are trained.
        tensors: their names, a group of weights for each in layer-wise methods.
        steps: local steps of each worker, if they end the run.
        device: where this process trains.
        faults: of all workers, as they are written; a population as what was drawn for it.
    """

    step: int
    workers: int
    processes: int
    parameters: int
    tensors: tuple[str, ...]
    steps: int | None
    device: str
    faults: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The consensus was measured after a round.

    Attributes:
        error: the task's metric.
        step: local steps made.
        round: rounds made.
        elapsed: seconds since the start.
    """

    error: float
    step: int
    round: int
    elapsed: float


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The end of a run.

    Attributes:
        error: the task's metric of the consensus.
        consensus: its state dict; of the average of the last rounds' consensuses, if there is one.
        step: local steps made.
        round: rounds made.
        elapsed: seconds since the start.
        averaged_rounds: how many consensuses were averaged; 0 if it is the last one alone.
        workers: worker -> its state dict after the last round, of those that live in this process;
            empty unless they are to be kept.
    """

    error: float
    consensus: dict[str, Tensor]
    step: int
    round: int
    elapsed: float
    averaged_rounds: int
    workers: dict[int, dict[str, Tensor]] = field(default_factory=dict)


Event = Started | RoundReport | Evaluated | Finished


def train(
    task: Task,
    strategy_for: StrategyFor,
    settings: Settings,
    *,
    device: torch.device | None = None,
    checkpoints: Path | None = None,
    keep_workers: bool = False,
) -> Iterator[Event]:
    """Trains the workers hosted by this process, together with the other processes.

    Args:
        task: what is learnt.
        strategy_for: makes the strategy.
        settings: how.
        device: where this process trains; the CPU by default.
        checkpoints: the folder for checkpoints, where training goes on if there is one already.
        keep_workers: whether what came of it tells each worker's parameters.

    Yields:
        That it has started, a report after each round, what was measured after it, and at the end
        what came of it.
    """
    run = Run(task, strategy_for, settings, device or torch.device("cpu"), checkpoints)
    yield run.started()
    with run.averager:
        while not run.is_over():
            run.step()
            yield from run.news()
    yield from run.news()  # of the rounds after the last steps
    finished = run.finish()
    yield replace(finished, workers=run.workers_states()) if keep_workers else finished


class Run:
    """A training run on this process.

    Args:
        task: what is learnt.
        strategy_for: makes the strategy.
        settings: how.
        device: where this process trains.
        checkpoints: the folder for checkpoints, if there are to be some.

    Raises:
        UserError: if the number of workers is not a multiple of the number of processes, or they
            are to be stacked and can't be.
    """

    def __init__(
        self,
        task: Task,
        strategy_for: StrategyFor,
        settings: Settings,
        device: torch.device,
        checkpoints: Path | None,
    ) -> None:
        processes, self._process = _world()
        if settings.workers % processes:
            raise UserError(
                f"{settings.workers} workers can't be spread evenly over {processes} processes"
            )
        self._task, self._settings, self._device = task, settings, device
        self._processes, self._checkpoints = processes, checkpoints
        self._data = load(task, settings, device)
        shards = deal(task, self._data, settings)
        hosted = settings.workers // processes
        indices = range(self._process * hosted, (self._process + 1) * hosted)
        self._workers = [Worker(i, task, self._data, shards[i], settings, device) for i in indices]
        self._ending = Ending.of(settings, shards)
        self._news: list[Event] = []
        self._average = None
        if settings.swa is not None:
            self._average = ConsensusAverage(self._workers[0].model, settings.swa)
        self._clock = settings.modelled() if settings.modelled else WallClock()
        self.averager = self._make_averager(strategy_for(task, self._data))
        self._hosted = self._make_hosted()
        found = latest(checkpoints) if checkpoints else None
        if found:
            restore(found, self._workers, self.averager, self._average, self._process)
            self._set_lrs(self._workers)

    def _make_averager(self, strategy: Strategy) -> Averager:
        settings = self._settings
        return Averager(
            [worker.model for worker in self._workers],
            [worker.optimizer for worker in self._workers],
            strategy,
            schedule=settings.schedule,
            overlap_steps=settings.overlap_steps,
            fragments=settings.fragments,
            comm_dtype=settings.comm_dtype,
            hook_every=settings.hook_every,
            guard=settings.guard,
            buffers=settings.buffers,
            timeout=settings.timeout,
            measure_distance=True,
            on_round=[_weakly(WeakMethod(self._after_round))],
            clock=self._clock,
        )

    def _make_hosted(self) -> Hosted:
        if not self._settings.stack_workers:
            return Looped(self._workers)
        return Stacked(self._task, self._data, self._workers, self.averager, self._settings)

    def started(self) -> Started:
        """What is about to be trained."""
        named = self._workers[0].model.named_parameters()
        trained = {name: p.numel() for name, p in named if p.requires_grad}
        return Started(
            step=self.averager.step,
            workers=self._settings.workers,
            processes=self._processes,
            parameters=sum(trained.values()),
            tensors=tuple(trained),
            steps=self._ending.steps,
            device=str(self._device),
            faults=tuple(str(fault) for fault in self._settings.faults),
        )

    def is_over(self) -> bool:
        """Whether the last step has been made."""
        steps = self._ending.steps
        return self._ending.is_over or (
            steps is not None and self.averager.total_steps >= steps * self._settings.workers
        )

    def step(self) -> None:
        """A local step of the hosted workers, or of the one whose turn it is."""
        averager = self.averager
        turn = None
        if averager.steps_individually:
            assert isinstance(self._clock, VirtualClock), "only there workers take turns"
            turn = self._clock.next_worker(averager.waiting)
        who = slice(None) if turn is None else slice(turn, turn + 1)
        losses = self._hosted.backward(who, [steps + 1 for steps in averager.steps[who]])
        averager.record_loss(losses, turn)
        self._hosted.move(who)
        self._set_lrs(self._workers[who])

    def _progress(self) -> float:
        """How much is done, in [0, 1], as far as this process knows."""
        mean_steps = self.averager.total_steps / self._settings.workers
        return self._ending.progress(mean_steps, self._clock.now())

    def _set_lrs(self, workers: list[Worker]) -> None:
        progress = self._progress()
        for worker in workers:
            worker.set_lr(progress)

    def news(self) -> Iterator[Event]:
        """What happened since the last call."""
        news, self._news = self._news, []
        yield from news

    def _after_round(self, report: RoundReport) -> None:
        """In the round itself, so that all processes do the same in the same order."""
        settings, error = self._settings, None
        self._news.append(report)
        if _is_due(report.round, settings.evaluate_every):
            with self.averager.consensus_applied() as model, evaluating(model):
                error = self._agreed(self._task.measure(model, self._data))
            self._news.append(
                Evaluated(error=error, step=report.step, round=report.round, elapsed=report.elapsed)
            )
        self._ending.after_round(report, error)
        if self._average and self._average.is_due(self._agreed(self._progress())):
            with self.averager.consensus_applied() as model:
                self._average.add(model)
        if self._checkpoints and _is_due(report.round, settings.checkpoint_every):
            save(self._checkpoints, self._workers, self.averager, self._average, self._process)

    def _agreed(self, value: float) -> float:
        """Worker 0's, on every process: what they decide together must be the same everywhere."""
        return float(self.averager.gather(value)[0])

    def finish(self) -> Finished:
        """Measures the consensus and keeps it; every process must call it."""
        elapsed, average = self._clock.now(), self._average
        if average is None or average.rounds == 0:
            return finish(self.averager, self._task, self._data, elapsed)
        model = average.finished(self._data.train_inputs, self._task.prepare)
        return _finished(model, self.averager, self._task, self._data, elapsed, average.rounds)

    def workers_states(self) -> dict[int, dict[str, Tensor]]:
        """The state dicts of the workers of this process, copied."""
        first = self._process * len(self._workers)
        return {
            first + k: {key: value.clone() for key, value in worker.model.state_dict().items()}
            for k, worker in enumerate(self._workers)
        }


def _weakly(method: "WeakMethod[Callable[[RoundReport], None]]") -> Callable[[RoundReport], None]:
    """For a run's averager, which would else hold the run that holds it.

    Both, and the data with them, would stay until a garbage collection comes by: in a study, many
    trials later.

    Returns:
        The method as a callback that does not hold its run.
    """

    def call(report: RoundReport) -> None:
        found = method()
        assert found is not None, "a round after its run was given up"
        found(report)

    return call


def _is_due(round_number: int, every: int) -> bool:
    return every > 0 and round_number % every == 0


def deal(task: Task, data: Data, settings: Settings) -> list[Tensor]:
    """Each worker's samples, checked to be enough; and faults, checked to suit the task.

    Returns:
        N index tensors.

    Raises:
        UserError: if a worker has fewer samples than a batch, or a fault needs labels.
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
                f"of {size}; take fewer workers, smaller batches or more samples"
            )
    return shards


def finish(averager: Averager, task: Task, data: Data, elapsed: float) -> Finished:
    """Measures the consensus and keeps it; every process must call it."""
    with averager.consensus_applied() as model, evaluating(model):
        return _finished(model, averager, task, data, elapsed, averaged_rounds=0)


def _finished(
    model: nn.Module,
    averager: Averager,
    task: Task,
    data: Data,
    elapsed: float,
    averaged_rounds: int,
) -> Finished:
    return Finished(
        error=task.measure(model, data),
        consensus={key: value.clone() for key, value in model.state_dict().items()},
        step=averager.step,
        round=averager.round,
        elapsed=elapsed,
        averaged_rounds=averaged_rounds,
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
