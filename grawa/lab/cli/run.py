"""`grawa train` and `grawa resume`: train a configuration and write the run's folder."""

import json
import sys
from collections.abc import Hashable
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from grawa.checkpoints.places import round_of
from grawa.errors import UserError
from grawa.integrations.tensorboard import require_tensorboard
from grawa.lab.cli import names, scores
from grawa.lab.cli.going_on import say_restart, saying_how_to_go_on
from grawa.lab.cli.new_folder import new_folder, room_for
from grawa.lab.cli.process import run_process
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.limits import check_memory
from grawa.lab.experiments.lock import check_free, locked
from grawa.lab.experiments.run_folder import RunFolder
from grawa.lab.report.console import say, summary
from grawa.lab.tasks import Data
from grawa.lab.train.checkpoint import NEWEST, Start
from grawa.lab.train.fork_server import Command
from grawa.lab.train.launch import launch
from grawa.lab.train.launch_elastic import launch_elastic
from grawa.lab.train.sharing import deal, load
from grawa.lab.train.stackable import trained_names
from grawa.lab.units import too_large
from grawa.process_group import (
    is_first_process,
    pick_device,
    under_launcher,
)


def train_command(
    config: TrainConfig, from_file: Path | None, out: Path | None, overwrite: bool
) -> None:
    """Runs `grawa train`.

    Args:
        config: the run, with the options in the file.
        from_file: the file with options that the command line does not give.
        out: the run's folder; by default a new one in runs/.
        overwrite: whether it may be that of a finished run, which is replaced.
    """
    check(config)
    if not (is_first_process() or config.elastic):
        _run(config, Path())
        return
    with room_for(config, out) if overwrite else nullcontext():
        folder = new_folder(config, out)
        try:
            _run(config, folder.path)
        finally:
            if not (config.elastic and under_launcher()):  # else others may use it
                folder.remove_if_unused()


def resume_command(
    run: Path,
    from_checkpoint: str | None,
    workers: int | None,
    processes: int | None,
    donors: bool,
) -> None:
    """Runs `grawa resume`.

    Args:
        run: the run's folder.
        from_checkpoint: another checkpoint than the last one.
        workers: another number of workers than until now.
        processes: another number of processes.
        donors: whether new workers get the optimizer state of those that were there, in turn.

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
    if config.elastic and (from_checkpoint is not None or resize):
        raise UserError(
            "an elastic run goes on from each worker's newest checkpoint, with its number of "
            "workers, of whom some may be missing: leave out --from, --workers and --processes"
        )
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
    for name, least in (
        ("max_restarts", 0), ("keep_checkpoints", 1), ("keep_rounds", 0), ("stop_within", 0),
    ):  # fmt: skip
        if getattr(config, name) < least:
            raise UserError(f"{name} must be at least {least}, got {getattr(config, name)}")
    task, strategy = names.task(config.task, config.data), names.strategy(config.strategy)
    target = settings.until_error
    if target is not None and target >= 1.0 and task.metric.endswith("error"):
        raise UserError(too_large("until_error", str(config.until_error), target))
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
    with saying_how_to_go_on(path):
        if under_launcher() or config.num_processes() == 1:
            run_process(config, path, start)
        else:
            _launch(config, path, start)
    if is_first_process():
        console = Console()
        finished = RunFolder(path).events()[-1]
        console.print(summary(finished, is_modelled=config.clock == "virtual"))
        for doubt in finished["doubts"]:
            say(console, f"warning: {doubt}")
        say(console, f"{path}: the run's folder; `grawa evaluate {path}` measures its model")


def _launch(config: TrainConfig, path: Path, start: Start) -> None:
    """Trains in several processes of this machine."""
    begun = {"path": str(path), "start": asdict(start)}
    arguments = [json.dumps(asdict(config)), json.dumps(begun), *sys.argv]
    elastic, most = config.settings().elastic, config.max_restarts
    imports = [
        "grawa.lab.cli.process",
        "torch._dynamo",
        *names.task(config.task, config.data).imports,
    ]
    console = Console()
    if elastic is None:
        with console.status("starting processes") as status:
            launch(
                Command("grawa.lab.cli.worker", arguments, imports),
                config.num_processes(),
                max_restarts=most,
                on_start=status.stop,
                on_restart=partial(say_restart, path, most=most),
                stop_within=config.stop_within,
            )
        return
    with locked(path), console.status("starting processes") as status:
        launch_elastic(  # workers lock only their parts of the folder
            Command("grawa.lab.cli.worker", arguments, [*imports, "torchft"]),
            config.num_processes(),
            elastic,
            max_restarts=most,
            tell=partial(say, console),
            on_start=status.stop,
            stop_within=config.stop_within,
        )
