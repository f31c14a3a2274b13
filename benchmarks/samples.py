"""A file of samples: JSON lines, appended one by one while a benchmark measures."""

import json
from collections.abc import Mapping
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

    def begin(self, asked: Mapping[str, Any]) -> None:
        """Starts the file anew."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(f"{json.dumps({'asked': asked})}\n", encoding="utf-8")

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
