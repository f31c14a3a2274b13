"""One process of a run: it trains its workers, and writes the run's folder if that is its part."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from torch.distributed.elastic.multiprocessing.errors import record

from grawa.comm.elastic import Elastic
from grawa.lab.cli import names, scores
from grawa.lab.cli.going_on import saying_what_is_safe
from grawa.lab.cli.journal import Journal, OwnJournal, SharedJournal
from grawa.lab.cli.keep import keep, saving_workers
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.identity import identity
from grawa.lab.experiments.lock import locked
from grawa.lab.experiments.older import with_saved_defaults
from grawa.lab.experiments.run_folder import RunFolder
from grawa.lab.tasks import Data, Task
from grawa.lab.together import everyones
from grawa.lab.train.checkpoint import NEWEST, Saving, Start
from grawa.lab.train.launch import while_parent_lives
from grawa.lab.train.loop import train
from grawa.lab.train.stop import StopSignals, asking
from grawa.process_group import distributed, is_first_process, restart_count, under_launcher
from grawa.strategies import RandomWeights
from grawa.strategies.protocol import Strategy
from grawa.strategies.prox import Proximal


@record
def run_process(config: TrainConfig, path: Path, start: Start = NEWEST) -> None:
    """Trains in one process; an exception is recorded for the launcher.

    Args:
        config: the run.
        path: the run's folder, which exists.
        start: from which checkpoint it continues; by default the last one.
    """
    settings = config.settings()
    with distributed(config.device, settings.timeout) as device:
        folder = RunFolder(everyones(path, "find the run's folder")[0])
        role = _Role.of(settings.elastic)
        with saying_what_is_safe(folder), role.lock(folder):
            _host(config, folder, start, device, role)


@dataclass(frozen=True)
class _Role:
    """What a process does beside training.

    Args:
        worker: the number of its elastic worker; `None` if all workers are there always.
        wait: for how many seconds an elastic worker waits for others.
        speaks: whether it shows the rounds.
    """

    worker: int | None
    wait: float
    speaks: bool

    @classmethod
    def of(cls, elastic: Elastic | None) -> "_Role":
        """Of this process."""
        if elastic is None:
            return cls(None, 0.0, is_first_process())
        worker = elastic.placed().worker
        return cls(worker, elastic.times.wait.total_seconds(), worker == 0)

    @property
    def writes(self) -> bool:
        """Whether it writes the folder, alone or in turn with others."""
        return self.speaks or self.worker is not None

    def lock(self, folder: RunFolder) -> AbstractContextManager[None]:
        """What keeps another process from doing the same in the folder at the same time."""
        return locked(folder.path, self.worker) if self.writes else nullcontext()

    def journal(self, folder: RunFolder) -> Journal:
        """What writes the events."""
        if self.worker is None:
            return OwnJournal(folder)
        return SharedJournal(folder, self.worker, self.wait)


def _host(
    config: TrainConfig, folder: RunFolder, start: Start, device: torch.device, role: _Role
) -> None:
    """Trains the workers of this process, and writes the run's folder if that is its part."""
    task = names.task(config.task, config.data)
    # Agents of torchrun on several hosts need not count restarts alike.
    restarted = any(everyones(restart_count() > 0, "tell whether this is a restart"))
    saving = Saving(
        folder=folder.checkpoints,
        keep=config.keep_checkpoints,
        every=config.checkpoint_interval(),
        identity=identity(config),
        current=with_saved_defaults,
        resume=f"grawa resume {folder.path}",
        start=replace(start, name=None) if restarted else start,  # there may be newer ones by then
        fall_back=restarted or role.worker is not None,  # others may have the state
        events=folder.events_file,
    )
    within = None if under_launcher() else config.stop_within
    events = train(
        task,
        partial(strategy_for, config),
        config.settings(),
        device=device,
        saving=saving,
        keep_workers=config.keep_workers,
        keep_rounds=config.keep_rounds,
        asking=partial(asking, signals=StopSignals(), within=within),
    )
    if under_launcher():
        events = while_parent_lives(events)
    events = saving_workers(events, folder)
    if role.writes:
        console = Console(quiet=not role.speaks)
        keep(events, config, task, folder, role.journal(folder), console)
    else:
        for _ in events:
            pass
    # torchrun on a host whose processes have all succeeded does not start them again, so that those
    # of another host would wait for them for ever, if the first process failed to save the model.
    everyones(True, "end together")


def strategy_for(config: TrainConfig, task: Task, data: Data) -> Strategy:
    """The configured strategy, with its seed and score."""
    strategy = names.strategy(config.strategy)
    if isinstance(strategy, Proximal) and strategy.draws and strategy.prox_seed is None:
        strategy = replace(strategy, prox_seed=config.seed)
    if isinstance(strategy, RandomWeights) and strategy.seed is None:
        return replace(strategy, seed=config.seed)
    return scores.with_score(strategy, config, task, data)
