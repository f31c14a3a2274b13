"""`grawa strategies` and `grawa tasks`: lists."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from rich.console import Console
from rich.table import Table

from grawa.lab import written
from grawa.lab.cli import names
from grawa.lab.experiments.score import LOSSES, NORMS, ScoreChoice
from grawa.lab.experiments.usual_score import BY_PROBE, usual_score
from grawa.lab.report.console import in_words
from grawa.strategies.protocol import Strategy


def strategies_command() -> None:
    """Runs `grawa strategies`."""
    known = names.known_strategies()
    _show(
        "strategy", known, {name: _with_usual_score(name, make()) for name, make in known.items()}
    )
    print(f"Scores that are norms, for --score: {', '.join(NORMS)}")
    print(f"Scores that are losses: {', '.join(LOSSES)}")
    print(f"Without --score, {in_words(BY_PROBE)} have probe; others show theirs above.")


def tasks_command() -> None:
    """Runs `grawa tasks`."""
    known = names.known_tasks()
    _show("task", known, {name: make() for name, make in known.items()})


def _with_usual_score(name: str, made: Strategy) -> Strategy:
    """The strategy as the command uses it."""
    score = usual_score(name)
    return made if score is None else replace(made, score=ScoreChoice.parse(score).score)


def _show(what: str, known: Mapping[str, Callable[[], object]], made: Mapping[str, object]) -> None:
    table = Table(title_justify="left", show_lines=True)
    for heading in (what, "description", "options and defaults", "source"):
        table.add_column(heading, overflow="fold")
    for name, make in known.items():
        description, options, source = written.describe(made[name])
        if isinstance(make, partial):
            fixed = ", ".join(f"{key}={value}" for key, value in make.keywords.items())
            description = f"{make.func.__name__} with {fixed}."
        table.add_row(name, description, options, source)
    console = Console(markup=False)
    console.print(table)
    console.print(f"Options are written as {next(iter(known))}:option=value:option=value")
