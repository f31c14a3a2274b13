"""The folder of a run: its configuration, events, checkpoints and models."""

import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from torch import Tensor

from grawa.checkpoints.places import all_checkpoints
from grawa.errors import UserError
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.environment import environment, read_environment
from grawa.lab.experiments.event_lines import read_events
from grawa.lab.experiments.older import with_saved_defaults
from grawa.lab.experiments.saved_models import read_model, write_model
from grawa.lab.files import cause_of, is_file, is_there, write_text
from grawa.lab.records import read_toml

SCHEMA = 1
"""Version of the lines in `events.jsonl`; increased when the meaning of a field changes."""


@dataclass(frozen=True)
class RunFolder:
    """A folder with `config.toml`, `environment.json`, `events.jsonl` and `model.safetensors`.

    Also `checkpoints/`, `workers/` with the workers' last parameters, and `rounds/` with those of
    before the last rounds, if they are saved.

    Args:
        path: the folder.
    """

    path: Path

    @classmethod
    def create(cls, path: Path, config: TrainConfig, launch: str | None = None) -> "RunFolder":
        """Makes a new folder, with configuration and environment.

        Args:
            path: where.
            config: the run.
            launch: the launch that makes it, if its processes may be started again.

        Returns:
            The folder.

        Raises:
            UserError: if the path exists already, or can't be written.
        """
        if is_there(path):
            raise UserError(_exists(path))
        made = path.with_name(f".new-{secrets.token_hex(4)}")
        folder = cls(made)
        try:
            made.mkdir(parents=True)
            folder.put_config(config)
            known = {**environment(), "launch": launch}
            write_text(made / "environment.json", json.dumps(known, indent=2) + "\n")
            folder.events_file.touch()
            made.rename(path)  # so that it is there as a whole, and only one of two runs gets it
        except (OSError, ValueError) as error:
            shutil.rmtree(made, ignore_errors=True)
            if is_there(path):
                raise UserError(_exists(path)) from None
            raise UserError(f"can't make the run folder {path}: {cause_of(error)}") from None
        return cls(path)

    @classmethod
    def create_one(cls, path: Path, config: TrainConfig) -> "RunFolder":
        """As `create`; if the path exists already, a number is added to it.

        Returns:
            The folder.

        Raises:
            UserError: if it can't be written.
        """
        number, free = 1, path
        while is_there(free):
            number += 1
            free = path.with_name(f"{path.name}-{number}")
        try:
            return cls.create(free, config)
        except UserError:
            if not is_there(free):
                raise
            return cls.create_one(path, config)  # another run has just taken it

    def is_of(self, launch: str | None) -> bool:
        """Whether this launch has made the folder."""
        return launch is not None and read_environment(self.path)[0].get("launch") == launch

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Opens an existing folder.

        Returns:
            The folder.

        Raises:
            UserError: if it is not the folder of a run.
        """
        if not is_file(path / "config.toml"):
            raise UserError(f"{path} is not a run folder: it has no config.toml")
        return cls(path)

    @property
    def events_file(self) -> Path:
        """The record of a run's rounds."""
        return self.path / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of the run's checkpoints, if it has any."""
        return self.path / "checkpoints"

    def saved(self) -> list[Path]:
        """The run's complete checkpoints, also those of single workers, the oldest first."""
        return all_checkpoints(self.checkpoints)

    def has_finished(self) -> bool:
        """Whether the run came to its end, and its model has been saved and measured."""
        return any(event["kind"] == "finished" for event in self.events())

    def remove_if_unused(self) -> None:
        """Removes the folder if the run has not started."""
        if self.path.is_dir() and not self.events():
            shutil.rmtree(self.path)

    def config(self) -> TrainConfig:
        """Reads the run's configuration; a `UserError` if the file can't be read."""
        path = self.path / "config.toml"
        return TrainConfig.from_toml(with_saved_defaults(read_toml(path)), path)

    def put_config(self, config: TrainConfig) -> None:
        """Writes the run's configuration."""
        write_text(self.path / "config.toml", tomli_w.dumps(config.as_saved().as_toml()))

    def append(self, kind: str, event: Mapping[str, Any]) -> None:
        """Adds a line to `events.jsonl`, flushed at once."""
        line = json.dumps({"schema": SCHEMA, "kind": kind, **event}, allow_nan=False)
        with self.events_file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def events(self) -> list[dict[str, Any]]:
        """All complete lines of `events.jsonl`: see `read_events`."""
        return self.read_events()[0]

    def read_events(self) -> tuple[list[dict[str, Any]], list[str]]:
        """Reads `events.jsonl`.

        Returns:
            All whole lines, and a notice if others are damaged, as the last one is after a crash.
        """
        return read_events(self.events_file)

    def forget_after(self, round_number: int) -> list[str]:
        """Removes the events of later rounds, and that it has diverged, before a run continues.

        Args:
            round_number: the last one that is kept.

        Returns:
            A notice if other lines are incomplete.
        """
        events, notices = self.read_events()
        kept = [
            event
            for event in events
            if event["kind"] == "started"
            or (event["kind"] != "diverged" and event.get("round", 0) <= round_number)
        ]
        if len(kept) < len(events) or notices:
            lines = (json.dumps(event, allow_nan=False) + "\n" for event in kept)
            write_text(self.events_file, "".join(lines))
        return notices

    def save_model(self, state: Mapping[str, Tensor]) -> None:
        """Writes `model.safetensors`."""
        write_model(state, self.path / "model.safetensors")

    def load_model(self) -> dict[str, Tensor]:
        """Reads `model.safetensors`.

        Returns:
            The state dict.

        Raises:
            UserError: if it is missing or broken.
        """
        path = self.path / "model.safetensors"
        if not path.is_file():
            raise UserError(f"{path} is missing: the run has not finished; see `grawa resume`")
        return read_model(path)

    @property
    def workers(self) -> Path:
        """The folder for the workers' parameters, if they are saved."""
        return self.path / "workers"

    def save_worker(self, worker: int, state: Mapping[str, Tensor]) -> None:
        """Writes `workers/worker-{worker}.safetensors`."""
        self.workers.mkdir(exist_ok=True)
        write_model(state, self.workers / f"worker-{worker}.safetensors")

    def load_workers(self, count: int) -> dict[int, dict[str, Tensor]]:
        """Reads the workers' parameters.

        Args:
            count: N.

        Returns:
            Worker -> state dict; empty if they were not saved. It is a `UserError` if only some are
            there, or a file is broken.
        """
        return _of_workers(self.workers, count, "--keep-workers")

    @property
    def rounds(self) -> Path:
        """The folder for the workers' parameters before rounds, if they are saved."""
        return self.path / "rounds"

    def save_rounds(self, worker: int, kept: Mapping[str, Tensor]) -> None:
        """Writes `rounds/worker-{worker}.safetensors`, with (R, *shape) for each parameter."""
        self.rounds.mkdir(exist_ok=True)
        write_model(kept, self.rounds / f"worker-{worker}.safetensors")

    def load_rounds(self, count: int) -> dict[int, dict[str, Tensor]]:
        """As `load_workers`, of what `save_rounds` has written."""
        return _of_workers(self.rounds, count, "--keep-rounds")


def _of_workers(folder: Path, count: int, option: str) -> dict[int, dict[str, Tensor]]:
    """Reads a file of each worker, or none if there is none."""
    paths = {i: folder / f"worker-{i}.safetensors" for i in range(count)}
    missing = [path for path in paths.values() if not path.is_file()]
    if len(missing) == count:
        return {}
    if missing:
        raise UserError(
            f"{missing[0]} is missing, while other workers' files exist; train again with {option}"
        )
    return {worker: read_model(path) for worker, path in paths.items()}


def _exists(path: Path) -> str:
    return (
        f"{path} exists already, and nothing is overwritten: choose another --out, or give "
        "--overwrite to replace a finished run"
    )
