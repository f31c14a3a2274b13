"""A file of samples: JSON lines, appended one by one while a benchmark measures."""

import fcntl
import json
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from common import read_line
from grawa.errors import UserError

Sample = dict[str, Any]
"""The content of one line of the file."""

Revise = Callable[[Sample, Sequence[Sample]], tuple[Mapping[str, Any], Sequence[Sample]]]
"""Options and environment, and samples, of an earlier run -> what stands in their place."""


@dataclass(frozen=True)
class Samples:
    """The file: options and environment in the first line, then a line for each sample.

    Each line is written completely and at once, so an interruption loses at most the current
    sample. Several processes may have this object; only one of them writes.
    """

    path: Path

    @contextmanager
    def begin(self, asked: Mapping[str, Any], revise: Revise | None = None) -> Generator[None]:
        """Starts the file anew; while the context lasts, no other run can do so.

        Args:
            asked: options and environment.
            revise: if there are samples of an earlier run: what is kept of them.

        Raises:
            UserError: if another run is adding samples to it, or `revise` raises it.
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
            if revise is None or not self.path.stat().st_size:
                _rewrite(file, [{"asked": asked}])
            else:
                self._resume(file, revise)
            file.flush()
            yield

    def _resume(self, file: TextIO, revise: Revise) -> None:
        """Keeps what `revise` says; where that is everything, nothing is written anew."""
        earlier, found, _ = self.read()
        asked, kept = revise(earlier, found)
        if _plain([asked["config"], *kept]) == [earlier["config"], *found]:
            # After a line end, since a crash may have cut off the last line.
            file.write(f"\n{json.dumps({'resumed': asked['environment']})}\n")
        else:
            _rewrite(file, [{"asked": asked}, *kept])

    def add(self, **sample: Any) -> None:
        """Appends a sample; it is on the disk when this returns."""
        line = json.dumps(sample)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
            file.flush()
            os.fsync(file.fileno())

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


def _rewrite(file: TextIO, lines: Sequence[Mapping[str, Any]]) -> None:
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    file.truncate(0)
    file.write(text)


def _plain(values: Sequence[Any]) -> Any:
    """The same as read from JSON."""
    return json.loads(json.dumps(values))
