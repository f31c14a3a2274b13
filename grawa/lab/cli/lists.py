"""`grawa strategies` and `grawa tasks`: lists."""

from collections.abc import Callable, Mapping
from functools import partial

from rich.console import Console
from rich.table import Table

from grawa.lab import written
from grawa.lab.cli import names
from grawa.lab.experiments.score import LOSSES, NORMS


def strategies_command() -> None:
    """Runs `grawa strategies`."""
    _show("strategy", names.known_strategies())
    print(f"Scores that are norms, for --score: {', '.join(NORMS)}")
    print(f"Scores that are losses: {', '.join(LOSSES)}")


def tasks_command() -> None:
    """Runs `grawa tasks`."""
    _show("task", names.known_tasks())


def _show(what: str, known: Mapping[str, Callable[[], object]]) -> None:
    table = Table(title_justify="left", show_lines=True)
    for heading in (what, "description", "options and defaults", "source"):
        table.add_column(heading, overflow="fold")
    for name, make in known.items():
        description, options, source = written.describe(make())
        if isinstance(make, partial):
            fixed = ", ".join(f"{key}={value}" for key, value in make.keywords.items())
            description = f"{make.func.__name__} with {fixed}."
        table.add_row(name, description, options, source)
    console = Console(markup=False)
    console.print(table)
    console.print(f"Options are written as {next(iter(known))}:option=value:option=value")
