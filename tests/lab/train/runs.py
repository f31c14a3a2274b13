"""Short training runs in one process."""

import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch

import grawa
from grawa.checkpoints.places import checkpoints as checkpoints_in
from grawa.checkpoints.places import round_of
from grawa.lab.cli.process import strategy_for
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.tasks import Data, Digits, Task
from grawa.lab.train.checkpoint import Saving
from grawa.lab.train.events import Event, Finished, Started
from grawa.lab.train.interval import Interval
from grawa.lab.train.loop import train
from grawa.lab.train.settings import Settings

StrategyFor = Callable[[Task, Data], grawa.Strategy]


def settings(**changes: Any) -> Settings:
    """A small run's settings."""
    usual: dict[str, Any] = {
        "workers": 4,
        "steps": 24,
        "epochs": None,
        "budget": None,
        "until_error": None,
        "evaluate_every": 0,
        "schedule": grawa.Every(4),
        "overlap_steps": 0,
        "alpha": None,
        "fragments": 1,
        "comm_dtype": None,
        "modelled": None,
        "batch_size": 8,
        "lr": 0.1,
        "lr_schedule": "cosine",
        "optimizer": "sgd",
        "guard": grawa.Guard(),
        "buffers": "average",
        "shards": "iid",
        "faults": (),
        "dtype": "float32",
        "seed": 0,
        "timeout": timedelta(seconds=60),
        "stack_workers": "off",
        "swa": None,
    }
    return Settings(**usual | changes)


def always(strategy: grawa.Strategy) -> StrategyFor:
    return lambda task, data: strategy


def probing() -> StrategyFor:
    """LGRAWA by the norms on a batch that all workers share."""
    return partial(strategy_for, TrainConfig(task="digits", score="probe"))


def events(
    strategy_for: StrategyFor,
    chosen: Settings,
    *,
    checkpoints: Path | None = None,
    every: int = 2,
    until: int | None = None,
    task: Task | None = None,
) -> list[Event]:
    """All events of a run; or those of the first `until`, after which it is broken off.

    With `checkpoints` it saves one there after `every` so many rounds, and continues from the last.
    """
    saving = None if checkpoints is None else saving_to(checkpoints, every)
    stream = train(task or Digits(train_size=200), strategy_for, chosen, saving=saving)
    if until is None:
        return list(stream)
    found = [next(stream) for _ in range(until)]
    for thread in threading.enumerate():
        if thread.name == "grawa checkpoint":
            thread.join()  # as if the disk had been fast
    return found


def saving_to(folder: Path, every: int = 2, keep: int = 3, **changes: Any) -> Saving:
    """Saves checkpoints of a run with this identity."""
    usual: dict[str, Any] = {
        "identity": {"task": "digits"},
        "resume": "resume it",
    } | changes
    return Saving(folder=folder, keep=keep, every=Interval(rounds=every), **usual)


def rounds_saved(folder: Path) -> list[int]:
    """The rounds of the checkpoints in a folder."""
    return [round_of(path) for path in checkpoints_in(folder).values()]


def end(found: list[Event]) -> Finished:
    """The last event of a whole run."""
    finished = found[-1]
    assert isinstance(finished, Finished)
    return finished


def started(found: list[Event]) -> Started:
    """The first event of a run."""
    first = found[0]
    assert isinstance(first, Started)
    return first


def same_model(first: Finished, second: Finished) -> bool:
    """Whether two runs ended with the same bits."""
    return first.consensus.keys() == second.consensus.keys() and all(
        torch.equal(value, second.consensus[name]) for name, value in first.consensus.items()
    )
