"""A training run on one process, which hosts one or more workers."""

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn

from grawa.checkpoints.extras import Extras
from grawa.checkpoints.restore import Restored
from grawa.errors import CommunicationError
from grawa.lab.simulate.clock import VirtualClock
from grawa.lab.tasks import Data, Task
from grawa.lab.train.averaged import ConsensusAverage
from grawa.lab.train.checkpoint import News, RunSaver, Saving, refusing
from grawa.lab.train.doubts import measured
from grawa.lab.train.ending import Ending
from grawa.lab.train.engine import engine_of
from grawa.lab.train.events import ByWorker, Evaluated, Event, Finished, Joined, Started, Trained
from grawa.lab.train.parts import Parts, resized
from grawa.lab.train.settings import Settings
from grawa.lab.train.sharing import deal, load, spread
from grawa.lab.train.stacked import host
from grawa.lab.train.stacking import choose_stacking
from grawa.lab.train.stop import StoppedError
from grawa.lab.train.worker import Worker
from grawa.modes import evaluating
from grawa.rounds.callback import weakly
from grawa.rounds.clock import WallClock
from grawa.rounds.report import RoundReport
from grawa.strategies.protocol import Strategy

StrategyFor = Callable[[Task, Data], Strategy]
"""Makes the strategy, given the data, from which a probe score draws its batches."""


class Run:
    """A training run on this process.

    Args:
        task: the task.
        strategy_for: makes the strategy.
        settings: the settings.
        device: the device of this process.
        saving: where and when checkpoints are saved; `None` for no checkpoints.

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
        saving: Saving | None,
    ) -> None:
        processes, self._process, hosted = spread(settings.workers, settings.elastic)
        self._task, self._settings, self._device = task, settings, device
        self._processes = processes
        self._data = load(task, settings, device)
        shards = deal(task, self._data, settings)
        indices = range(self._process * hosted, (self._process + 1) * hosted)
        samples = [(i, shards[i]) for i in indices]
        self._ending = Ending.of(settings, shards)
        self._saver: RunSaver | None = None
        if saving is not None:
            self._saver = RunSaver(saving, self._process)
        before = None if self._saver is None else self._saver.stacked
        steps = self._ending.steps
        self._stacking = choose_stacking(task, self._data, settings, samples, steps, before)
        self._workers = [Worker(i, task, self._data, own, settings, device) for i, own in samples]
        self._news: list[News] = []
        self._recorded, self._stepping, self._job = 0, slice(None), ""
        first, swa = self._workers[0].model, settings.swa
        self._average = None if swa is None else ConsensusAverage(first, swa)
        self._clock = settings.modelled() if settings.modelled else WallClock()
        strategy, tell = strategy_for(task, self._data), weakly(self._after_round)
        self.engine = engine_of(self._workers, task, strategy, settings, self._clock, tell)
        replicas, stacked = self.engine.replicas, self._stacking.stacked
        self._hosted = host(task, self._data, self._workers, replicas, settings, stacked=stacked)
        self._parts = Parts(self._workers, self.engine, self._average, self._ending)
        self._found: Restored | None = None
        if self._saver is not None:
            self._continue(self._saver)

    def _continue(self, saver: RunSaver) -> None:
        """Continues from a checkpoint, if there is one."""
        found = self._found = saver.restore(self.engine)
        if found is not None:
            with refusing(found.path):
                stepping, self._news = self._parts.restore(found)
            self._set_lrs([self._workers[k] for k in stepping])
            known = min((event.round for event in self._news), default=self.engine.round + 1)
            self._recorded = known - 1
        saver.open(self.engine, stacked=self._stacking.stacked, elapsed=self._clock.now())

    def started(self) -> Started:
        """The event at the start."""
        named = self._workers[0].model.named_parameters()
        found = self._found
        trained = {name: p.numel() for name, p in named if p.requires_grad}
        return Started(
            step=self.engine.step,
            round=self.engine.round,
            recorded=self._recorded,
            passed_over=() if found is None else found.passed_over,
            resized="" if found is None else resized(found, self._settings.workers),
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

    def begin(self) -> None:
        """Begins to train with the others; an elastic worker may get their state, and be late."""
        self.engine.local_steps_begin()
        if self._settings.elastic is not None:
            self._set_lrs(self._workers)

    @contextmanager
    def rescued(self) -> Generator[None]:
        """Saves a checkpoint if an elastic worker is left by the others, before it fails.

        Yields:
            Nothing.

        Raises:
            CommunicationError: the one that was raised in the block.
            StoppedError: in its place, if this worker is to stop and waited for others.
        """
        try:
            yield
        except CommunicationError:
            if self._settings.elastic is not None and self._saver is not None:
                self._saver.save(self._extras(), wait=True)
                if self.engine.keeper.runner.roll_call.asks_to_stop:
                    raise StoppedError(saved=True) from None
            raise

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
        self._stepping = chosen
        losses = self._hosted.backward(chosen, [steps + 1 for steps in engine.steps[chosen]])
        engine.note_losses(losses, chosen)
        engine.note_samples(torch.tensor([w.batch_size for w in self._workers[chosen]]), chosen)
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
        if self._job != (job := self.engine.assembly.job):
            yield Joined(
                worker=self._process,
                job=job,
                late=self.engine.came_late or bool(self._job),
                step=self.engine.step,
                round=self.engine.round,
            )
            self._job = job
        news, self._news = self._news, []
        yield from news

    def _after_round(self, report: RoundReport) -> None:
        """Measures and saves; called within the round, so in the same order on all processes."""
        settings, error = self._settings, None
        self._news.append(report)
        if settings.evaluate_every and report.round % settings.evaluate_every == 0:
            with self._consensus() as model, evaluating(model):
                error = self._agreed(self._task.measure(model, self._data))
            self._news.append(
                Evaluated(error=error, step=report.step, round=report.round, elapsed=report.elapsed)
            )
        self._ending.after_round(report, error)
        if self._average and self._average.is_due(self._agreed(self._progress())):
            with self._consensus() as model:
                self._average.add(model)
        if self._saver is not None:
            self._saver.after_round(report, self._extras)

    def _extras(self) -> Extras:
        stepping = range(len(self._workers))[self._stepping]
        return self._parts.extras(stepping, self._news)

    def _agreed(self, value: float) -> float:
        """Worker 0's value, so that every process makes the same decision."""
        return float(self.engine.gather(value)[0])

    def _consensus(self) -> AbstractContextManager[nn.Module]:
        """The first worker's model with the consensus's parameters; every process must call it."""
        return self.engine.replicas.holding(self.engine.consensus())

    def end(self, *, keep_workers: bool, rounds: ByWorker) -> Iterator[Trained | Finished]:
        """The last events, the first of them with `rounds`; every process must take both."""
        if self._saver is not None:
            self._saver.finish()
        workers = self.workers_states() if keep_workers else {}
        elapsed = self._clock.now()
        with self._final() as (model, averaged_rounds):
            consensus = {key: value.clone() for key, value in model.state_dict().items()}
            yield Trained(consensus=consensus, workers=workers, rounds=rounds)
            yield Finished(
                **measured(self._task, self._data, model, self._settings.seed)._asdict(),
                consensus=consensus,
                step=self.engine.step,
                round=self.engine.round,
                elapsed=elapsed,
                averaged_rounds=averaged_rounds,
            )

    @contextmanager
    def _final(self) -> Generator[tuple[nn.Module, int]]:
        """The model that the run ends with, and of how many consensuses it is the average."""
        average = self._average
        if average is None or average.rounds == 0:
            with self._consensus() as model, evaluating(model):
                yield model, 0
        else:
            yield average.finished(self._data.train_inputs, self._task.prepare), average.rounds

    def workers_states(self) -> ByWorker:
        """Copies of the state dicts of the workers of this process."""
        first = self._process * len(self._workers)
        return {
            first + k: {key: value.clone() for key, value in worker.model.state_dict().items()}
            for k, worker in enumerate(self._workers)
        }
