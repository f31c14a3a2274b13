"""`grawa train` and `grawa resume`: train a configuration and write the run's folder."""

import json
import sys
from collections.abc import Hashable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from torch.distributed.elastic.multiprocessing.errors import record

from grawa.errors import UserError
from grawa.integrations.tensorboard import TensorBoardRounds, require_tensorboard
from grawa.lab.cli import names, scores
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.limits import check_memory
from grawa.lab.experiments.run_folder import RunFolder
from grawa.lab.report.console import RoundProgress, summary
from grawa.lab.tasks import Data, Task
from grawa.lab.train.checkpoint import latest, step_of
from grawa.lab.train.events import Evaluated, Event, Finished, Started
from grawa.lab.train.launch import from_first, launch, while_parent_lives
from grawa.lab.train.loop import train
from grawa.lab.train.sharing import deal, load
from grawa.lab.train.stackable import trained_names
from grawa.process_group import distributed, is_first_process, pick_device, under_launcher
from grawa.rounds.report import RoundReport
from grawa.strategies import RandomWeights
from grawa.strategies.protocol import Strategy


def train_command(
    config: Annotated[TrainConfig, tyro.conf.arg(name="")],
    from_file: Annotated[Path | None, tyro.conf.arg(name="config")] = None,
    out: Path | None = None,
) -> None:
    """Train a task on several workers.

    Args:
        config: the run.
        from_file: A file with the format of a run's config.toml, such as those in recipes/, for
            options that are not given on the command line; TASK may then be left out.
        out: The run's folder, which must not exist yet; by default a new one in runs/.
    """
    check(config)
    path = out or Path("runs") / f"{_file_name(config)}-{datetime.now():%Y%m%d-%H%M%S}"
    if is_first_process():
        RunFolder.check_new(path)
    _run(config, path)


def resume_command(run: tyro.conf.Positional[Path]) -> None:
    """Continue a run from its last checkpoint, as if it had not been interrupted.

    Args:
        run: The run's folder.

    Raises:
        UserError: if there is no checkpoint, or the run has finished.
    """
    folder = RunFolder.open(run)
    found = latest(folder.checkpoints)
    if found is None:
        raise UserError(f"{run} has no checkpoint; train with --checkpoint-every")
    if (folder.path / "model.safetensors").exists():
        raise UserError(f"{run} has finished; `grawa evaluate {run}` measures its model")
    if is_first_process():
        for notice in folder.forget_after(step_of(found)):
            Console().print(notice)
    _run(folder.config(), run)


def check(config: TrainConfig, known: dict[Hashable, Data] | None = None) -> None:
    """Raises a `UserError` for an invalid configuration before anything is started or written.

    Args:
        config: the run.
        known: data that were loaded already for other runs; newly loaded data are added.
    """
    settings = config.settings()
    config.num_processes()
    task, strategy = names.task(config.task, config.data), names.strategy(config.strategy)
    scores.check(config, strategy)
    if config.tensorboard:
        require_tensorboard()
    known = {} if known is None else known
    source = (task, settings.seed, settings.dtype)
    if source not in known:
        known[source] = load(task, settings, torch.device("cpu"))
    data = known[source]
    deal(task, data, settings)
    if settings.stack_workers == "on":
        trained_names(task, data, settings)
    device = pick_device(config.device)
    if not under_launcher():
        model, processes = task.model(settings.seed), config.num_processes()
        check_memory(model, config.workers, processes, on_cpu=device.type == "cpu")


def _run(config: TrainConfig, path: Path) -> None:
    processes = config.num_processes()
    if under_launcher() or processes == 1:
        run_process(config, path)
    else:
        launch(
            ["-m", "grawa.lab.cli.worker", json.dumps(asdict(config)), str(path), *sys.argv],
            processes,
        )
    if is_first_process():
        console = Console()
        console.print(summary(RunFolder(path).events()[-1]))
        console.print(f"{path}: the run's folder; `grawa evaluate {path}` measures its model")


@record
def run_process(config: TrainConfig, path: Path) -> None:
    """Trains in one process; an exception is recorded for the launcher."""
    with distributed(config.device, config.settings().timeout) as device:
        _host(config, from_first(path), device)


def _host(config: TrainConfig, path: Path, device: torch.device) -> None:
    """Trains the workers of this process; the first process writes the run's folder."""
    task = names.task(config.task, config.data)
    checkpoints = RunFolder(path).checkpoints if config.checkpoint_every else None
    events = train(
        task,
        partial(strategy_for, config),
        config.settings(),
        device=device,
        checkpoints=checkpoints,
        keep_workers=config.keep_workers,
    )
    if under_launcher():
        events = while_parent_lives(events)
    events = _saving_workers(events, RunFolder(path))
    if is_first_process():
        keep(events, config, task, path)
    else:
        for _ in events:
            pass


def _saving_workers(events: Iterator[Event], folder: RunFolder) -> Iterator[Event]:
    """Passes events on; at the end each process saves its workers, before the model is saved."""
    for event in events:
        if isinstance(event, Finished):
            for worker, state in event.workers.items():
                folder.save_worker(worker, state)
        yield event


def strategy_for(config: TrainConfig, task: Task, data: Data) -> Strategy:
    """The configured strategy, with its seed and score."""
    strategy = names.strategy(config.strategy)
    if isinstance(strategy, RandomWeights) and strategy.seed is None:
        return replace(strategy, seed=config.seed)
    return scores.with_score(strategy, config, task, data)


def keep(events: Iterator[Event], config: TrainConfig, task: Task, path: Path) -> None:
    """Shows a run's events and writes them to its folder, which is made when all have started."""
    with Console().status("starting"):
        started = next(events)
    assert isinstance(started, Started)
    folder = _folder(path, config, started)
    folder.append("started", asdict(started))
    if started.processes > 1:
        print(f"{started.workers} workers in {started.arrangement}")
    if config.stack_workers == "auto" and started.workers > started.processes:
        print(f"local steps: {started.stacking}")
    with ExitStack() as stack:
        budget = config.settings().budget
        progress = stack.enter_context(RoundProgress(started.steps, budget, Console()))
        board = TensorBoardRounds(folder.path / "tensorboard") if config.tensorboard else None
        if board is not None:
            stack.callback(board.close)
        for event in events:
            if isinstance(event, RoundReport):
                folder.append("round", event.as_json())
                progress.show(event)
                if board is not None:
                    board(event)
            elif isinstance(event, Evaluated):
                folder.append("evaluated", asdict(event))
            elif isinstance(event, Finished):
                folder.save_model(event.consensus)
                folder.append("finished", _totals(event, task, folder))


def _folder(path: Path, config: TrainConfig, started: Started) -> RunFolder:
    """The run's folder; its configuration says how local steps are made, for the same bits."""
    if started.step > 0:
        return RunFolder.open(path)
    return RunFolder.create(path, replace(config, stack_workers="on" if started.stacked else "off"))


def _totals(finished: Finished, task: Task, folder: RunFolder) -> dict[str, Any]:
    """The result of a run; sums over all its rounds, also those before it was resumed."""
    rounds = [event for event in folder.events() if event["kind"] == "round"]
    summed = ("bytes_sent", "compute_seconds", "round_seconds", "exposed_seconds")
    return {
        "metric": task.metric,
        "error": finished.error,
        "step": finished.step,
        "elapsed": finished.elapsed,
        "round": finished.round,
        "averaged_rounds": finished.averaged_rounds,
        **{name: sum(event[name] for event in rounds) for name in summed},
    }


def _file_name(config: TrainConfig) -> str:
    words = f"{config.task}-{config.strategy}-seed{config.seed}"
    return "".join(c if c.isalnum() or c in "-._" else "-" for c in words)[:100]
