"""Where a new run writes its files."""

from datetime import datetime
from pathlib import Path

from grawa.errors import UserError
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.identity import identity
from grawa.lab.experiments.run_folder import RunFolder
from grawa.lab.files import is_file
from grawa.process_group import launch_name, may_restart, restart_count


def new_folder(config: TrainConfig, out: Path | None) -> RunFolder:
    """The run's new folder; under torchrun, a restarted process finds the one that it has made.

    Args:
        config: the run.
        out: the folder that was asked for; by default one in runs/.

    Returns:
        The folder.

    Raises:
        UserError: if it is there already, or can't be made.
    """
    if out is None and may_restart():
        raise UserError(
            "torchrun may start this run again (--max-restarts): give --out, so that it finds its "
            "folder then"
        )
    if out is None:
        name = f"{_file_name(config)}-{datetime.now():%Y%m%d-%H%M%S}"
        return RunFolder.create_one(Path("runs") / name, config)
    launch = launch_name()
    if is_file(out / "config.toml"):
        folder = RunFolder.open(out)
        # Agents of torchrun on several hosts need not count restarts alike.
        again = restart_count() > 0 or folder.is_of(launch)
        if again and identity(folder.config()) == identity(config) and not folder.has_finished():
            return folder
    return RunFolder.create(out, config, launch)


def _file_name(config: TrainConfig) -> str:
    words = f"{config.task}-{config.strategy}-seed{config.seed}"
    return "".join(c if c.isalnum() or c in "-._" else "-" for c in words)[:100]
