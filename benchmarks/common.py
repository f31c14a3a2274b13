"""Functions that the benchmarks share: statistics of ratios, files and tables."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from rich.console import Console
from rich.table import Table

from grawa.lab.files import write_text
from grawa.lab.report.letters import spelled

Value = TypeVar("Value")

PACKAGES = ("torch", "numpy", "accelerate", "torchft", "grawa")


class Spread(NamedTuple):
    """The median of some samples, and the quartiles around it."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Spread":
        """The quartiles of samples; a single sample is all three."""
        if len(samples) == 1:
            return cls(samples[0], samples[0], samples[0])
        return cls(*statistics.quantiles(samples, n=4, method="inclusive"))


def ratios(samples: Sequence[float], baseline: Sequence[float]) -> Spread:
    """Ratios to the baseline's sample of the same repetition, so that changing load cancels out."""
    return Spread.of([s / b for s, b in zip(samples, baseline, strict=True)])


def columns(rows: Sequence[Mapping[str, Value]]) -> dict[str, list[Value]]:
    """Turns rows into columns: name -> values of all rows."""
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}


def read_line(line: str) -> dict[str, Any] | None:
    """The object in a line of a JSONL file, or `None` if the line is incomplete."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if the file is missing or broken."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entry if isinstance(entry, dict) else {}


def write_results(path: Path, results: dict[str, Any], environment: dict[str, Any]) -> None:
    """Writes the results together with the environment of the measurement."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({"environment": environment, **results}, indent=1) + "\n")


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table unless it is empty; only its first column, which has no numbers, is folded."""
    if not rows:
        return
    table = Table(title=spelled(title), title_justify="left")
    for i, column in enumerate(columns):
        justify: Literal["left", "right"] = "right" if i else "left"
        table.add_column(spelled(column), justify=justify, no_wrap=i > 0, overflow="fold")
    for row in rows:
        table.add_row(*map(spelled, row))
    Console(width=110).print(table)


def verdict(what: str, ratio: float, target: float) -> str:
    """A sentence on whether a ratio meets its target."""
    met = "meets" if ratio <= target else "MISSES"
    return f"{what}: {ratio:.3f} {met} the target of at most {target}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or nothing."""
    return next(iter(str(error).splitlines()), "")
