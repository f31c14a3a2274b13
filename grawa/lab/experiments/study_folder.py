"""The folder of a study: its definition, and a line for each finished trial."""

import fcntl
import json
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w

from grawa.errors import UserError
from grawa.lab.experiments.environment import PACKAGES, environment, read_environment
from grawa.lab.experiments.study import Study
from grawa.lab.experiments.study_toml import as_toml, from_toml
from grawa.lab.experiments.trial import Result
from grawa.lab.experiments.trial_lines import trial_of
from grawa.lab.files import cause_of, is_file, is_there, opened, write_text
from grawa.lab.records import Lines, damage_notices, read_lines, read_toml

SCHEMA = 2
"""Version of the lines in `trials.jsonl`; increased when the meaning of a field changes."""

_OPTIONS = {"arms": "one of --strategies, --lr, --grid and --grow"}
"""What on the command line makes an entry of `study.toml` that has another name."""

STUDY_PACKAGES = (*PACKAGES, "scipy", "matplotlib")


class Found(NamedTuple):
    """The content of `trials.jsonl`."""

    results: list[Result]
    dropped: int
    """Number of incomplete and damaged lines, whose trials run again."""


@dataclass(frozen=True)
class StudyFolder:
    """A folder with `study.toml`, `environment.json`, `trials.jsonl` and `report.html`.

    Args:
        path: the folder.
    """

    path: Path

    @classmethod
    def begin(cls, path: Path, study: Study) -> "StudyFolder":
        """Makes a new folder for a study, or opens the one in which it was interrupted.

        Returns:
            The folder.

        Raises:
            UserError: if the path has something else, or can't be written.
        """
        if is_there(path):
            folder = cls.open(path)
            folder.check_same(study)
            return folder
        building = path.parent / f".{path.name}.{os.getpid()}.tmp"
        try:
            building.mkdir(parents=True)
            write_text(building / "study.toml", tomli_w.dumps(as_toml(study)))
            about = json.dumps(environment(STUDY_PACKAGES), indent=2)
            write_text(building / "environment.json", about + "\n")
            (building / "trials.jsonl").touch()
            building.rename(path)
        except (OSError, ValueError) as error:  # a ValueError: a null character in the path
            raise UserError(f"can't make the study folder {path}: {cause_of(error)}") from None
        finally:
            shutil.rmtree(building, ignore_errors=True)  # there only if it could not be renamed
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "StudyFolder":
        """Opens an existing folder.

        Returns:
            The folder.

        Raises:
            UserError: if it is not the folder of a study.
        """
        if not cls.is_one(path):
            raise UserError(f"{path} is not a study folder: it has no study.toml")
        return cls(path)

    @staticmethod
    def is_one(path: Path) -> bool:
        """Whether there is a study at that path."""
        return is_file(path / "study.toml")

    def study(self) -> Study:
        """Reads the definition of the study; a `UserError` if the file can't be read."""
        path = self.path / "study.toml"
        return from_toml(read_toml(path), path)

    def check_same(self, study: Study) -> None:
        """Refuses another study than the one in the folder.

        Raises:
            UserError: naming the first entry that differs.
        """
        ours, theirs = as_toml(self.study()), as_toml(study)
        for name, value in theirs.items():
            if ours[name] != value:
                raise UserError(
                    f"{self.path} has another study: {_OPTIONS.get(name, name)} differs; choose "
                    "another --out"
                )

    def about(self) -> dict[str, Any]:
        """The environment at the start of the study; empty if the file is missing or damaged."""
        return read_environment(self.path)[0]

    def changed_since(self) -> list[str]:
        """What has changed since the start of the study: versions, git, processor."""
        then, now = self.about(), environment(STUDY_PACKAGES)
        return [what for what in ("versions", "git", "processor") if then.get(what) != now[what]]

    @contextmanager
    def locked(self) -> Generator[None]:
        """Locks the folder, so that no other process runs the same study.

        Yields:
            Nothing.

        Raises:
            UserError: if another process has locked it.
        """
        path = self.path / "trials.jsonl"
        if path.exists():
            with opened(path):  # a pipe would make this process wait
                pass
        with path.open("a", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(f"{self.path} is being run by another process") from None
            yield

    def append(self, result: Result) -> None:
        """Adds a line to `trials.jsonl`, and waits until it is on the disk."""
        line = json.dumps({"schema": SCHEMA, **result.as_json()}, allow_nan=False)
        with (self.path / "trials.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())

    def found(self) -> Found:
        """Reads the results so far.

        Returns:
            A result for each finished trial, and the number of lines that are none.
        """
        lines = self._lines()
        results = {result.key: result for result in map(Result.from_json, lines.entries)}
        return Found(list(results.values()), lines.incomplete + len(lines.damaged))

    def damaged(self) -> list[str]:
        """A notice if lines of `trials.jsonl` are whole but can't be results of this study."""
        return damage_notices(self._lines().damaged, "trials.jsonl")

    def remove_incomplete_lines(self) -> None:
        """Removes dropped lines from `trials.jsonl`, so that new ones begin on a new line."""
        text = "".join(line + "\n" for line in self._lines().kept).encode()
        path = self.path / "trials.jsonl"
        if text != path.read_bytes():
            with path.open("r+b") as file:
                file.write(text)  # in place: the lock is on this file
                file.truncate()

    def _lines(self) -> Lines:
        path = self.path / "trials.jsonl"
        lines = read_lines(path, trial_of(self.study(), SCHEMA))
        if any(entry["schema"] != SCHEMA for entry in lines.entries):
            raise UserError(f"{path} was written by another version of grawa")
        return lines
