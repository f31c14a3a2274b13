"""The training loop of one process, which hosts one or more workers, as a stream of events."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from grawa.errors import UserError
from grawa.lab.simulate.clock import VirtualClock
from grawa.lab.tasks import Data, Task
from grawa.lab.train.averaged import ConsensusAverage
from grawa.lab.train.callback import weakly
from grawa.lab.train.checkpoint import latest, read, restore, save
from grawa.lab.train.doubts import measured
from grawa.lab.train.ending import Ending
from grawa.lab.train.events import Evaluated, Event, Finished, Started
from grawa.lab.train.settings import Settings
from grawa.lab.train.sharing import deal, load, world
from grawa.lab.train.stacked import host
from grawa.lab.train.stacking import choose_stacking
from grawa.lab.train.worker import Worker
from grawa.modes import evaluating
from grawa.rounds.clock import WallClock
from grawa.rounds.engine import Engine
from grawa.rounds.plan import RoundPlan
from grawa.rounds.report import RoundReport
from grawa.rounds.setup import set_up
from grawa.strategies.protocol import Strategy

StrategyFor = Callable[[Task, Data], Strategy]
"""Makes the strategy, given the data, from which a probe score draws its batches."""


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
        task: the task.
        strategy_for: makes the strategy.
        settings: the settings.
        device: the device of this process; the CPU by default.
        checkpoints: the folder for checkpoints; if it has one already, training continues from it.
        keep_workers: whether `Finished` has each worker's parameters.

    Yields:
        `Started`; a `RoundReport` after each round, and an `Evaluated` if the consensus was
        measured; at the end `Finished`.
    """
    run = Run(task, strategy_for, settings, device or torch.device("cpu"), checkpoints)
    yield run.started()
    run.engine.local_steps_begin()
    while not run.is_over():
        run.step()
        yield from run.news()
    run.engine.leave()
    yield from run.news()  # of the rounds after the last steps
    finished = run.finish()
    yield replace(finished, workers=run.workers_states()) if keep_workers else finished


class Run:
    """A training run on this process.

    Args:
        task: the task.
        strategy_for: makes the strategy.
        settings: the settings.
        device: the device of this process.
        checkpoints: the folder for checkpoints; `None` for no checkpoints.

    Raises:
        UserError: if the number of workers is not a multiple of the number of processes, or the
            settings stack the workers' steps and the model does not allow it.
    """

    def __init__(
        self,
        task: Task,
        strategy_for: StrategyFor,
        settings: Settings,
        device: torch.device,
        checkpoints: Path | None,
    ) -> None:
        processes, self._process = world()
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
        samples = [(i, shards[i]) for i in indices]
        self._ending = Ending.of(settings, shards)
        found = latest(checkpoints) if checkpoints else None
        saved = read(found, self._process, hosted) if found else None
        before = None if saved is None else saved["stacked"]
        steps = self._ending.steps
        self._stacking = choose_stacking(task, self._data, settings, samples, steps, before)
        self._workers = [Worker(i, task, self._data, own, settings, device) for i, own in samples]
        self._news: list[Event] = []
        first, swa = self._workers[0].model, settings.swa
        self._average = None if swa is None else ConsensusAverage(first, swa)
        self._clock = settings.modelled() if settings.modelled else WallClock()
        self.engine = self._make_engine(strategy_for(task, self._data))
        replicas, stacked = self.engine.replicas, self._stacking.stacked
        self._hosted = host(task, self._data, self._workers, replicas, settings, stacked=stacked)
        if saved is not None:
            restore(saved, self._workers, self.engine, self._average)
            self._set_lrs(self._workers)

    def _make_engine(self, strategy: Strategy) -> Engine:
        settings = self._settings
        plan = partial(
            RoundPlan,
            strategy=strategy,
            schedule=settings.schedule,
            guard=settings.guard,
            buffers=settings.buffers,
            measure_distance=True,
            overlap_steps=settings.overlap_steps,
            alpha=settings.alpha,
            fragments=settings.fragments,
            comm_dtype=settings.comm_dtype,
            individually=self._clock.individual and settings.schedule.counts_together,
        )
        return set_up(
            [worker.model for worker in self._workers],
            [[worker.optimizer] for worker in self._workers],
            plan,
            "a run of the laboratory, whose processes have one configuration",
            process_group=None,
            worker_group=None,
            timeout=settings.timeout,
            clock=self._clock,
            tell=[weakly(self._after_round)],
        )

    def started(self) -> Started:
        """The event at the start."""
        named = self._workers[0].model.named_parameters()
        trained = {name: p.numel() for name, p in named if p.requires_grad}
        return Started(
            step=self.engine.step,
            workers=self._settings.workers,
            processes=self._processes,
            arrangement=self.engine.comm.arrangement,
            parameters=sum(trained.values()),
            tensors=tuple(trained),
            steps=self._ending.steps,
            device=str(self._device),
            faults=tuple(str(fault) for fault in self._settings.faults),
            stacked=self._stacking.stacked,
            stacking=str(self._stacking),
        )

    def is_over(self) -> bool:
        """Whether training has ended."""
        steps = self._ending.steps
        return self._ending.is_over or (
            steps is not None and self.engine.total_steps >= steps * self._settings.workers
        )

    def step(self) -> None:
        """Makes a local step of all hosted workers, or of the next one by a virtual clock."""
        engine, chosen = self.engine, slice(None)
        if engine.plan.individually:
            assert isinstance(self._clock, VirtualClock), "no other clock times workers separately"
            worker = self._clock.next_worker(engine.waiting)
            chosen = slice(worker, worker + 1)
        losses = self._hosted.backward(chosen, [steps + 1 for steps in engine.steps[chosen]])
        engine.note_losses(losses, chosen)
        if engine.plan.strategy.shares_gradients(engine.step):
            engine.share_gradients()
        self._hosted.move(chosen)
        engine.local_step(chosen)
        self._set_lrs(self._workers[chosen])

    def _progress(self) -> float:
        """The fraction of the training that is done, in [0, 1], as far as this process knows."""
        mean_steps = self.engine.total_steps / self._settings.workers
        return self._ending.progress(mean_steps, self._clock.now())

    def _set_lrs(self, workers: list[Worker]) -> None:
        progress = self._progress()
        for worker in workers:
            worker.set_lr(progress)

    def news(self) -> Iterator[Event]:
        """The events since the last call."""
        news, self._news = self._news, []
        yield from news

    def _after_round(self, report: RoundReport) -> None:
        """Measures and saves; called within the round, so in the same order on all processes."""
        settings, error = self._settings, None
        self._news.append(report)
        if _is_due(report.round, settings.evaluate_every):
            with self._consensus() as model, evaluating(model):
                error = self._agreed(self._task.measure(model, self._data))
            self._news.append(
                Evaluated(error=error, step=report.step, round=report.round, elapsed=report.elapsed)
            )
        self._ending.after_round(report, error)
        if self._average and self._average.is_due(self._agreed(self._progress())):
            with self._consensus() as model:
                self._average.add(model)
        folder, stacked = self._checkpoints, self._stacking.stacked
        if folder and _is_due(report.round, settings.checkpoint_every):
            save(folder, self._workers, self.engine, self._average, self._process, stacked=stacked)

    def _agreed(self, value: float) -> float:
        """Worker 0's value, so that every process makes the same decision."""
        return float(self.engine.gather(value)[0])

    def _consensus(self) -> AbstractContextManager[nn.Module]:
        """The first worker's model with the consensus's parameters; every process must call it."""
        return self.engine.replicas.holding(self.engine.consensus())

    def finish(self) -> Finished:
        """Measures the consensus and returns the last event; every process must call it."""
        elapsed, average = self._clock.now(), self._average
        if average is None or average.rounds == 0:
            with self._consensus() as model, evaluating(model):
                return self._finished(model, elapsed, averaged_rounds=0)
        model = average.finished(self._data.train_inputs, self._task.prepare)
        return self._finished(model, elapsed, average.rounds)

    def _finished(self, model: nn.Module, elapsed: float, averaged_rounds: int) -> Finished:
        return Finished(
            **measured(self._task, self._data, model, self._settings.seed)._asdict(),
            consensus={key: value.clone() for key, value in model.state_dict().items()},
            step=self.engine.step,
            round=self.engine.round,
            elapsed=elapsed,
            averaged_rounds=averaged_rounds,
        )

    def workers_states(self) -> dict[int, dict[str, Tensor]]:
        """Copies of the state dicts of the workers of this process."""
        first = self._process * len(self._workers)
        return {
            first + k: {key: value.clone() for key, value in worker.model.state_dict().items()}
            for k, worker in enumerate(self._workers)
        }


def _is_due(round_number: int, every: int) -> bool:
    return every > 0 and round_number % every == 0
