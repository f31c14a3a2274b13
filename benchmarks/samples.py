"""A file of samples: JSON lines, appended one by one while a benchmark measures."""

import fcntl
import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grawa.errors import UserError
from grawa.lab.files import read_line

Sample = dict[str, Any]
"""The content of one line of the file."""


@dataclass(frozen=True)
class Samples:
    """The file: options and environment in the first line, then a line for each sample.

    Each line is written completely and at once, so an interruption loses at most the current
    sample. Several processes may have this object; only one of them writes.
    """

    path: Path

    @contextmanager
    def begin(self, asked: Mapping[str, Any], *, resume: bool = False) -> Generator[None]:
        """Starts the file anew, or resumes it; while the context lasts, no other run can do so.

        Args:
            asked: the first line: options, as "config", and the environment.
            resume: keep the samples that are there.

        Raises:
            UserError: if another run is adding samples to it, or it can't be resumed.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # gone with the process
            except BlockingIOError:
                raise UserError(
                    f"another run is adding samples to {self.path}; wait for its end, or choose "
                    "another folder (--out)"
                ) from None
            if resume:
                self._check_resumable(asked)
                file.write(f"\n{json.dumps({'resumed': asked['environment']})}\n")
            else:
                file.truncate(0)
                file.write(f"{json.dumps({'asked': asked})}\n")
            file.flush()
            yield

    def _check_resumable(self, asked: Mapping[str, Any]) -> None:
        """Refuses a file that is complete, or was begun with other options."""
        before, _, whole = self.read()
        if whole:
            raise UserError(f"{self.path} is complete: leave out --resume to measure anew")
        if json.loads(json.dumps(asked["config"])) != before["config"]:
            raise UserError(
                f"{self.path} was begun with other options, {before['config']}: give the same ones "
                "to resume it"
            )

    def add(self, **sample: Any) -> None:
        """Appends a sample."""
        line = json.dumps(sample)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def end(self) -> None:
        """Marks the file as complete."""
        self.add(whole=True)

    def read(self) -> tuple[Sample, list[Sample], bool]:
        """Reads the file; incomplete lines are ignored.

        Returns:
            Options and environment, with those in which it was "resumed"; the samples; and whether
            these are complete.

        Raises:
            UserError: if this is not a file of samples.
        """
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"samples can't be read from {self.path}: {error}") from None
        first, *rest = [read_line(line) or {} for line in lines] or [{}]
        if "asked" not in first:
            raise UserError(f"{self.path} is not a benchmark's file of samples")
        asked = dict(first["asked"])
        if resumed := [line["resumed"] for line in rest if "resumed" in line]:
            asked["environment"] = {**asked["environment"], "resumed": resumed}
        samples = [line for line in rest if line and not {"whole", "resumed"} & set(line)]
        return asked, samples, {"whole": True} in rest
