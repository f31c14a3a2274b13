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
from grawa.lab.report.console import summary
from grawa.lab.tasks import Data, Task
from grawa.lab.train.checkpoint import Saving
from grawa.lab.train.launch import WorkerFailedError, from_first, launch, while_parent_lives
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
from grawa.saving import Checkpoints
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
) -> None:
    """Continue a run from its last checkpoint, as if it had not been interrupted.

    Args:
        run: The run's folder.
        from_checkpoint: Another checkpoint than the last one, such as round-0000000020.

    Raises:
        UserError: if the run has finished, or goes on.
    """
    folder = RunFolder.open(run)
    if folder.has_finished():
        raise UserError(f"{run} has finished; `grawa evaluate {run}` measures its model")
    wanted = None if from_checkpoint is None else Checkpoints.round_of(from_checkpoint)
    if is_first_process():
        check_free(run)
        if not folder.saved(folder.config()).rounds():
            Console().print(f"{run} has no checkpoint yet: the run begins anew")
    _run(folder.config(), run, wanted)


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
    if config.max_restarts < 0:
        raise UserError(f"max_restarts must not be negative, got {config.max_restarts}")
    Checkpoints(Path(), config.keep_checkpoints)
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


def _run(config: TrainConfig, path: Path, wanted: int | None = None) -> None:
    processes = config.num_processes()
    with _saying_how_to_go_on(config, path):
        if under_launcher() or processes == 1:
            run_process(config, path, wanted)
        else:
            start = json.dumps({"path": str(path), "wanted": wanted})
            launch(
                ["-m", "grawa.lab.cli.worker", json.dumps(asdict(config)), start, *sys.argv],
                processes,
                max_restarts=config.max_restarts,
                on_restart=partial(_say_restart, config, path),
            )
    if is_first_process():
        console = Console()
        finished = RunFolder(path).events()[-1]
        console.print(summary(finished))
        for doubt in finished["doubts"]:
            console.print(f"warning: {doubt}", highlight=False, soft_wrap=True, markup=False)
        console.print(f"{path}: the run's folder; `grawa evaluate {path}` measures its model")


def _say_restart(config: TrainConfig, path: Path, error: WorkerFailedError, restart: int) -> None:
    """Says that the processes of a run are started again."""
    rounds = RunFolder(path).saved(config).rounds()
    where = f"from the checkpoint of round {rounds[-1]}" if rounds else "from the beginning"
    Console().print(
        f"{error}: starting again {where} (restart {restart} of {config.max_restarts})",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )


@contextmanager
def _saying_how_to_go_on(config: TrainConfig, path: Path) -> Generator[None]:
    """Adds to the error of a process that has died how the run goes on, if it can."""
    try:
        yield
    except WorkerFailedError as error:
        if not is_first_process() or not RunFolder(path).saved(config).rounds():
            raise
        raise WorkerFailedError(f"{error}; `grawa resume {path}` continues") from None


@record
def run_process(config: TrainConfig, path: Path, wanted: int | None = None) -> None:
    """Trains in one process; an exception is recorded for the launcher.

    Args:
        config: the run.
        path: the run's folder, which exists.
        wanted: the round of the checkpoint from which it continues; by default the last one.
    """
    with distributed(config.device, config.settings().timeout) as device:
        folder = RunFolder(from_first(path))
        with (
            _saying_what_is_safe(config, folder),
            locked(folder.path) if is_first_process() else nullcontext(),
        ):
            _host(config, folder, wanted, device)


@contextmanager
def _saying_what_is_safe(config: TrainConfig, folder: RunFolder) -> Generator[None]:
    """Turns the error of a disk that is full, say, into one line that says what is safe."""
    try:
        yield
    except OSError as error:
        rounds = folder.saved(config).rounds()
        safe = f"the checkpoint of round {rounds[-1]} is" if rounds else "no checkpoint is"
        raise UserError(
            f"{error.filename or folder.path} can't be written: {error.strerror or error}; {safe} "
            f"safe. When that is mended, `grawa resume {folder.path}` continues the run"
        ) from error


def _host(config: TrainConfig, folder: RunFolder, wanted: int | None, device: torch.device) -> None:
    """Trains the workers of this process; the first process writes the run's folder."""
    task = names.task(config.task, config.data)
    restarted = from_first(restart_count() > 0)
    saving = Saving(
        checkpoints=folder.saved(config),
        every=config.checkpoint_interval(),
        identity=identity(config),
        offer=lambda path: (
            f"`grawa resume {folder.path} --from {path.name}` continues from the one before it"
        ),
        wanted=None if restarted else wanted,  # there are newer ones by then
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


def strategy_for(config: TrainConfig, task: Task, data: Data) -> Strategy:
    """The configured strategy, with its seed and score."""
    strategy = names.strategy(config.strategy)
    if isinstance(strategy, RandomWeights) and strategy.seed is None:
        return replace(strategy, seed=config.seed)
    return scores.with_score(strategy, config, task, data)
