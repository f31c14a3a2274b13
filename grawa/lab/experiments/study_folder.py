"""The folder of a study: its definition, and a line for each finished trial."""

import fcntl
import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w

from grawa.errors import UserError
from grawa.lab.experiments.environment import PACKAGES, environment
from grawa.lab.experiments.study import Study
from grawa.lab.experiments.study_toml import as_toml, from_toml
from grawa.lab.experiments.trial import Result
from grawa.lab.files import read_json, read_line, read_toml, write_text

SCHEMA = 2
"""Version of the lines in `trials.jsonl`; increased when the meaning of a field changes."""

STUDY_PACKAGES = (*PACKAGES, "scipy", "matplotlib")


class Found(NamedTuple):
    """The content of `trials.jsonl`."""

    results: list[Result]
    dropped: int
    """Number of incomplete lines, whose trials run again."""


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
        if path.exists():
            folder = cls.open(path)
            folder.check_same(study)
            return folder
        building = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            building.mkdir(parents=True)
            write_text(building / "study.toml", tomli_w.dumps(as_toml(study)))
            about = json.dumps(environment(STUDY_PACKAGES), indent=2)
            write_text(building / "environment.json", about + "\n")
            (building / "trials.jsonl").touch()
            building.rename(path)
        except OSError as error:
            raise UserError(f"can't make the study folder {path}: {error.strerror}") from None
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
        return (path / "study.toml").is_file()

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
                    f"{self.path} has another study: {name} differs; choose another --out"
                )

    def about(self) -> dict[str, Any]:
        """The environment at the start of the study; empty if the file is missing."""
        return read_json(self.path / "environment.json")

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
        with (self.path / "trials.jsonl").open("a", encoding="utf-8") as file:
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
            A result for each finished trial, and the number of incomplete lines.

        Raises:
            UserError: if a line was written by another version.
        """
        results: dict[str, Result] = {}
        lines = self._text().splitlines()
        dropped = 0
        for line in lines:
            entry = read_line(line)
            if entry is None:
                dropped += 1
                continue
            if entry.pop("schema", None) != SCHEMA:
                raise UserError(f"{self.path}/trials.jsonl was written by another version of grawa")
            result = Result.from_json(entry)
            results[result.key] = result
        return Found(list(results.values()), dropped)

    def remove_incomplete_lines(self) -> None:
        """Removes incomplete lines from `trials.jsonl`, so that new ones begin on a new line."""
        whole = [line for line in self._text().splitlines() if read_line(line) is not None]
        text = "".join(line + "\n" for line in whole)
        if text != self._text():
            with (self.path / "trials.jsonl").open("r+", encoding="utf-8") as file:
                file.write(text)  # in place: the lock is on this file
                file.truncate()

    def _text(self) -> str:
        path = self.path / "trials.jsonl"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
