"""The benchmarks, each run once at toy size and shared by all tests."""

import atexit
import json
import math
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import namespaces
from grawa.errors import UserError
from samples import Sample, Samples

NAMES = (
    *("exchange", "fewer_bits", "gpu", "guard", "hosts", "language_model", "local_step"),
    *("medians", "network", "norm_window", "optimizer_state", "outer_momentum"),
    *("outer_steps", "paired", "scale", "stacking", "stragglers", "sync", "theory", "time_to_loss"),
)


@dataclass(frozen=True)
class Toy:
    """A benchmark that has run at toy size."""

    module: ModuleType
    folder: Path
    printed: str

    @property
    def name(self) -> str:
        return self.module.__name__

    @property
    def samples(self) -> Samples:
        return Samples(self.folder / f"{self.name}.jsonl")

    def lines(self) -> list[Sample]:
        """The samples it took; all must be there."""
        _, found, whole = self.samples.read()
        assert whole
        return found

    def results(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            (self.folder / f"{self.name}.json").read_text(encoding="utf-8")
        )
        return found


def toy(name: str) -> Toy:
    """A benchmark's run; skips the test where it can't run on this machine."""
    if name in {"exchange", "hosts", "network", "time_to_loss"} and _why_no_hosts():
        pytest.skip(_why_no_hosts())
    return _run(name)


@cache
def _why_no_hosts() -> str:
    try:
        namespaces.check_machine()
    except UserError as error:
        return str(error)
    return ""


@cache
def _run(name: str) -> Toy:
    module = import_module(name)
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    printed = said(module, "--toy", "--out", str(folder))
    return Toy(module, folder, printed)


def said(module: ModuleType, *words: str) -> str:
    """What a benchmark prints when it is called with these words."""
    with redirect_stdout(StringIO()) as printed:
        module.main(words)
    return printed.getvalue()


def rows(printed: str) -> set[str]:
    """The first cells of all rows of all tables."""
    lines = (line for line in printed.splitlines() if line.startswith("│"))
    return {line.strip("│").split("│")[0].strip() for line in lines}


def assert_positive(numbers: Iterable[float]) -> None:
    """Of all of them, and there are some."""
    found = list(numbers)
    assert found
    assert all(math.isfinite(number) and number > 0.0 for number in found), found
