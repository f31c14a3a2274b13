"""Samples as they come: a file of JSON lines that is only appended to."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grawa.errors import UserError
from grawa.lab.files import read_line

Sample = dict[str, Any]
"""What one line of the file holds."""


@dataclass(frozen=True)
class Samples:
    """The file: what was asked in the first line, then a line for each sample.

    Each line is written whole and at once, so that whatever ends the measurement takes at most the
    sample that was being taken. Several processes may hold the same file; one of them writes.
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
        """Notes that nothing is missing."""
        self.add(whole=True)

    def read(self) -> tuple[Sample, list[Sample], bool]:
        """What the file holds; a last line that was cut short is left out.

        Returns:
            What was asked, the samples, and whether these are all of them.

        Raises:
            UserError: if this is no file of samples.
        """
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"samples can't be read from {self.path}: {error}") from None
        first, *rest = [read_line(line) or {} for line in lines] or [{}]
        if "asked" not in first:
            raise UserError(f"{self.path} does not begin as a benchmark's file of samples does")
        samples = [sample for sample in rest if sample and "whole" not in sample]
        return first["asked"], samples, {"whole": True} in rest
