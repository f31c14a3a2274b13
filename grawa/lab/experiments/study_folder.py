"""The folder of a study: what was asked, and a line for each trial that has finished."""

import fcntl
import json
import os
import tomllib
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
from grawa.lab.files import read_json, read_line, write_text

SCHEMA = 2
"""Version of the lines in `trials.jsonl`; raised when a field changes its meaning."""

STUDY_PACKAGES = (*PACKAGES, "scipy", "matplotlib")


class Found(NamedTuple):
    """What `trials.jsonl` holds."""

    results: list[Result]
    dropped: int
    """Lines that are not whole; their trials run again."""


@dataclass(frozen=True)
class StudyFolder:
    """`study.toml`, `environment.json`, `trials.jsonl`, `report.html`.

    Args:
        path: the folder.
    """

    path: Path

    @classmethod
    def begin(cls, path: Path, study: Study) -> "StudyFolder":
        """The folder of this study: a new one, or the one in which it was interrupted.

        Returns:
            The folder.

        Raises:
            UserError: if there is something else at that path, or it can't be written.
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
        """An existing folder.

        Returns:
            The folder.

        Raises:
            UserError: if it is not a study's.
        """
        if not cls.is_one(path):
            raise UserError(f"{path} is not a study folder: it has no study.toml")
        return cls(path)

    @staticmethod
    def is_one(path: Path) -> bool:
        """Whether there is a study at that path."""
        return (path / "study.toml").is_file()

    def study(self) -> Study:
        """What was asked.

        Returns:
            The study.

        Raises:
            UserError: if the file can't be read.
        """
        path = self.path / "study.toml"
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} can't be read: {error}") from None
        return from_toml(table, path)

    def check_same(self, study: Study) -> None:
        """Makes sure that this is the same study.

        Raises:
            UserError: naming the first entry that is not.
        """
        ours, theirs = as_toml(self.study()), as_toml(study)
        for name, value in theirs.items():
            if ours[name] != value:
                raise UserError(
                    f"{self.path} holds another study: its {name} differ; choose another --out"
                )

    def about(self) -> dict[str, Any]:
        """The environment that it was begun in; empty if the file is gone."""
        return read_json(self.path / "environment.json")

    def changed_since(self) -> list[str]:
        """What is not as it was when the study was begun, for a notice."""
        then, now = self.about(), environment(STUDY_PACKAGES)
        return [what for what in ("versions", "git", "processor") if then.get(what) != now[what]]

    @contextmanager
    def locked(self) -> Generator[None]:
        """Keeps other processes from running the same study meanwhile.

        Yields:
            Nothing.

        Raises:
            UserError: if one does.
        """
        with (self.path / "trials.jsonl").open("a", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(f"{self.path} is being run by another process") from None
            yield

    def append(self, result: Result) -> None:
        """Adds a line to `trials.jsonl`, on the disk at once."""
        line = json.dumps({"schema": SCHEMA, **result.as_json()}, allow_nan=False)
        with (self.path / "trials.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())

    def found(self) -> Found:
        """The results that are there.

        Returns:
            One for each trial, and how many lines were not whole.

        Raises:
            UserError: if lines are of another version.
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

    def mend(self) -> None:
        """Removes lines that are not whole, so that new ones begin on a line of their own."""
        whole = [line for line in self._text().splitlines() if read_line(line) is not None]
        text = "".join(line + "\n" for line in whole)
        if text != self._text():
            with (self.path / "trials.jsonl").open("r+", encoding="utf-8") as file:
                file.write(text)  # in place: the lock is on this file
                file.truncate()

    def _text(self) -> str:
        path = self.path / "trials.jsonl"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
