"""Where a new run writes its files."""

from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from pathlib import Path

from grawa.errors import UserError
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.identity import identity
from grawa.lab.experiments.overwriting import overwriting
from grawa.lab.experiments.run_folder import RunFolder
from grawa.lab.files import is_file
from grawa.process_group import launch_name, may_restart, restart_count, under_launcher


def new_folder(config: TrainConfig, out: Path | None) -> RunFolder:
    """The run's new folder; processes that are started again find the one that was made before.

    So do elastic workers that a launcher starts one by one.

    Args:
        config: the run.
        out: the folder that was asked for; by default one in runs/.

    Returns:
        The folder.

    Raises:
        UserError: if it is there already, or can't be made.
    """
    is_one_of_many = config.elastic and under_launcher()
    if out is None and (may_restart() or is_one_of_many):
        why = (
            "elastic workers are started one by one"
            if is_one_of_many
            else "torchrun may start this run again (--max-restarts)"
        )
        raise UserError(f"{why}: give --out, so that all find the run's folder")
    if out is None:
        name = f"{_file_name(config)}-{datetime.now():%Y%m%d-%H%M%S}"
        return RunFolder.create_one(Path("runs") / name, config)
    launch = launch_name()
    found = _found(config, out, launch)
    if found is not None:
        return found
    try:
        return RunFolder.create(out, config, launch)
    except UserError:
        found = _found(config, out, launch)  # made by another process of the launch just now
        if found is None:
            raise
        return found


def room_for(config: TrainConfig, out: Path | None) -> AbstractContextManager[None]:
    """Makes room for a new run where a finished one is, for `--overwrite`.

    Args:
        config: the run.
        out: the folder that was asked for.

    Returns:
        What has to be entered while the run is made; see `overwriting`.

    Raises:
        UserError: if no folder was asked for, or several processes would replace it in turn.
    """
    if out is None:
        raise UserError("--overwrite needs --out: without it, each run has a new folder")
    if config.elastic and under_launcher():
        raise UserError("elastic workers are started one by one: --overwrite can't be used there")
    is_ours = _found(config, out, launch_name()) is not None
    return nullcontext() if is_ours else overwriting(out)


def _found(config: TrainConfig, out: Path, launch: str | None) -> RunFolder | None:
    """The folder that a process of this launch has made, if it is there and not finished."""
    if not is_file(out / "config.toml"):
        return None
    folder = RunFolder.open(out)
    # Agents of torchrun on several hosts need not count restarts alike.
    again = restart_count() > 0 or folder.is_of(launch)
    is_ours = again and identity(folder.config()) == identity(config)
    return folder if is_ours and not folder.has_finished() else None


def _file_name(config: TrainConfig) -> str:
    words = f"{config.task}-{config.strategy}-seed{config.seed}"
    return "".join(c if c.isalnum() or c in "-._" else "-" for c in words)[:100]
