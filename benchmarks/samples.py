"""A file of samples: JSON lines, appended one by one while a benchmark measures."""

import fcntl
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grawa.errors import UserError
from grawa.lab.files import read_line

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
            kept: Sequence[Sample] = ()
            if revise is not None and self.path.stat().st_size:
                earlier, found, _ = self.read()
                asked, kept = revise(earlier, found)
            file.truncate(0)
            for line in ({"asked": asked}, *kept):
                file.write(f"{json.dumps(line)}\n")
            file.flush()
            yield

    def add(self, **sample: Any) -> None:
        """Appends a sample."""
        line = json.dumps(sample)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def end(self) -> None:
        """Marks the file as complete."""
        self.add(whole=True)

    def read(self) -> tuple[Sample, list[Sample], bool]:
        """Reads the file; an incomplete last line is ignored.

        Returns:
            Options and environment, the samples, and whether these are complete.

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
        samples = [sample for sample in rest if sample and "whole" not in sample]
        return first["asked"], samples, {"whole": True} in rest
