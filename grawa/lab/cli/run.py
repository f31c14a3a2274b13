"""`grawa train` and `grawa resume`: train a configuration and write the run's folder."""

import json
import sys
from collections.abc import Generator, Hashable
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.console import Console
from torch.distributed.elastic.multiprocessing.errors import record

from grawa.checkpoints.places import round_of
from grawa.errors import UserError
from grawa.integrations.tensorboard import require_tensorboard
from grawa.lab.cli import names, scores
from grawa.lab.cli.keep import keep, saving_workers
from grawa.lab.cli.new_folder import new_folder
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.identity import identity
from grawa.lab.experiments.limits import check_memory
from grawa.lab.experiments.lock import check_free, locked
from grawa.lab.experiments.run_folder import RunFolder
from grawa.lab.report.console import say, summary
from grawa.lab.tasks import Data, Task
from grawa.lab.together import everyones
from grawa.lab.train.checkpoint import NEWEST, Saving, Start
from grawa.lab.train.launch import WorkerFailedError, launch, while_parent_lives
from grawa.lab.train.loop import train
from grawa.lab.train.sharing import deal, load
from grawa.lab.train.stackable import trained_names
from grawa.process_group import (
    distributed,
    is_first_process,
    pick_device,
    restart_count,
    under_launcher,
)
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
    if not is_first_process():
        _run(config, Path())
        return
    folder = new_folder(config, out)
    try:
        _run(config, folder.path)
    finally:
        folder.remove_if_unused()


def resume_command(
    run: tyro.conf.Positional[Path],
    from_checkpoint: Annotated[str | None, tyro.conf.arg(name="from")] = None,
    workers: int | None = None,
    processes: int | None = None,
    donors: bool = False,
) -> None:
    """Continue a run from its last checkpoint, as if it had not been interrupted.

    With other numbers of workers or processes, workers that were there go on as they were, except
    that samples are dealt anew to another number of workers; new ones start at the center.

    Args:
        run: The run's folder.
        from_checkpoint: Another checkpoint than the last one, such as save-000002-round-00000020.
        workers: Another number of workers than until now.
        processes: Another number of processes.
        donors: Give new workers the optimizer state of those that were there, in turn; by default
            it is fresh.

    Raises:
        UserError: if the run has finished, or goes on.
    """
    folder = RunFolder.open(run)
    if folder.has_finished():
        raise UserError(f"{run} has finished; `grawa evaluate {run}` measures its model")
    if from_checkpoint is not None:
        round_of(Path(from_checkpoint))
    config = folder.config()
    resize = (workers, processes) != (None, None)
    if donors and workers is None:
        raise UserError("--donors is for new workers: give --workers, too")
    if resize:
        config = replace(
            config,
            workers=config.workers if workers is None else workers,
            processes=config.processes if processes is None else processes,
        )
        check(config)
    if is_first_process():
        check_free(run)
        if not folder.saved():
            say(Console(), f"{run} has no checkpoint yet: the run begins anew")
    _run(config, run, Start(name=from_checkpoint, resize=resize, donors=donors))


def check(config: TrainConfig, known: dict[Hashable, Data] | None = None) -> None:
    """Checks a configuration before anything is started or written.

    Args:
        config: the run.
        known: data that were loaded already for other runs; newly loaded data are added.

    Raises:
        UserError: if it is invalid.
    """
    settings = config.settings()
    config.num_processes()
    config.checkpoint_interval()
    for name, least in (("max_restarts", 0), ("keep_checkpoints", 1)):
        if getattr(config, name) < least:
            raise UserError(f"{name} must be at least {least}, got {getattr(config, name)}")
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


def _run(config: TrainConfig, path: Path, start: Start = NEWEST) -> None:
    processes = config.num_processes()
    with _saying_how_to_go_on(path):
        if under_launcher() or processes == 1:
            run_process(config, path, start)
        else:
            table, begun = asdict(config), {"path": str(path), "start": asdict(start)}
            arguments = [json.dumps(table), json.dumps(begun)]
            launch(
                ["-m", "grawa.lab.cli.worker", *arguments, *sys.argv],
                processes,
                max_restarts=config.max_restarts,
                on_restart=partial(_say_restart, config, path),
            )
    if is_first_process():
        console = Console()
        finished = RunFolder(path).events()[-1]
        console.print(summary(finished))
        for doubt in finished["doubts"]:
            say(console, f"warning: {doubt}")
        say(console, f"{path}: the run's folder; `grawa evaluate {path}` measures its model")


def _say_restart(config: TrainConfig, path: Path, error: WorkerFailedError, restart: int) -> None:
    """Says that the processes of a run are started again."""
    saved = RunFolder(path).saved()
    where = f"from the checkpoint {saved[-1].name}" if saved else "from the beginning"
    counted = f"restart {restart} of {config.max_restarts}"
    say(Console(), f"{error}: starting again {where} ({counted})")


@contextmanager
def _saying_how_to_go_on(path: Path) -> Generator[None]:
    """Adds to the error of a process that has died how the run goes on, if it can."""
    try:
        yield
    except WorkerFailedError as error:
        if not is_first_process() or not RunFolder(path).saved():
            raise
        raise WorkerFailedError(f"{error}; `grawa resume {path}` continues") from None


@record
def run_process(config: TrainConfig, path: Path, start: Start = NEWEST) -> None:
    """Trains in one process; an exception is recorded for the launcher.

    Args:
        config: the run.
        path: the run's folder, which exists.
        start: from which checkpoint it continues; by default the last one.
    """
    with distributed(config.device, config.settings().timeout) as device:
        folder = RunFolder(everyones(path, "find the run's folder")[0])
        with (
            _saying_what_is_safe(folder),
            locked(folder.path) if is_first_process() else nullcontext(),
        ):
            _host(config, folder, start, device)


@contextmanager
def _saying_what_is_safe(folder: RunFolder) -> Generator[None]:
    """Turns the error of a disk that is full, say, into one line that says what is safe."""
    try:
        yield
    except OSError as error:
        saved = folder.saved()
        safe = f"the checkpoint of round {round_of(saved[-1])} is" if saved else "no checkpoint is"
        raise UserError(
            f"{error.filename or folder.path} can't be written: {error.strerror or error}; {safe} "
            f"safe. When that is mended, `grawa resume {folder.path}` continues the run"
        ) from error


def _host(config: TrainConfig, folder: RunFolder, start: Start, device: torch.device) -> None:
    """Trains the workers of this process; the first process writes the run's folder."""
    task = names.task(config.task, config.data)
    # Agents of torchrun on several hosts need not count restarts alike.
    restarted = any(everyones(restart_count() > 0, "tell whether this is a restart"))
    saving = Saving(
        folder=folder.checkpoints,
        keep=config.keep_checkpoints,
        every=config.checkpoint_interval(),
        identity=identity(config),
        resume=f"grawa resume {folder.path}",
        start=replace(start, name=None) if restarted else start,  # there may be newer ones by then
        fall_back=restarted,
        events=folder.events_file,
    )
    events = train(
        task,
        partial(strategy_for, config),
        config.settings(),
        device=device,
        saving=saving,
        keep_workers=config.keep_workers,
    )
    if under_launcher():
        events = while_parent_lives(events)
    events = saving_workers(events, folder)
    if is_first_process():
        keep(events, config, task, folder)
    else:
        for _ in events:
            pass
    # torchrun on a host whose processes have all succeeded does not start them again, so that those
    # of another host would wait for them for ever, if the first process failed to save the model.
    everyones(True, "end together")


def strategy_for(config: TrainConfig, task: Task, data: Data) -> Strategy:
    """The configured strategy, with its seed and score."""
    strategy = names.strategy(config.strategy)
    if isinstance(strategy, RandomWeights) and strategy.seed is None:
        return replace(strategy, seed=config.seed)
    return scores.with_score(strategy, config, task, data)
