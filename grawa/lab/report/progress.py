"""Progress of a study, with an estimate of the time left."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from grawa.lab.experiments.trial import Result
from grawa.lab.report.console import say

_LINES = 10  # of progress, if the output is not a terminal

_WORDS = {"pace": "measuring the cost of a step", "tune": "tuning", "test": "comparing"}


_WIDE = 80
"""Columns of a terminal from which on bars are long."""


class TimeLeftColumn(TimeRemainingColumn):
    """The time left, called so."""

    def render(self, task: Task) -> Text:
        """The time, as hours, minutes and seconds."""
        return Text.assemble(super().render(task), " left")


def moving_bar(console: Console, *columns: ProgressColumn) -> Progress:
    """A progress bar, shown only in a terminal; the last column, its text, is cut if need be.

    Args:
        console: where to show it.
        columns: after the bar, which are never cut.

    Returns:
        The bar, without a task.
    """
    text = TextColumn(
        "{task.description}",
        markup=False,
        table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
    )
    bar = BarColumn(bar_width=16 if console.width >= _WIDE else 6)
    disable = not console.is_terminal
    return Progress(bar, *columns, text, console=console, expand=True, disable=disable)


@contextmanager
def counting(total: int, begin: str, *columns: ProgressColumn) -> Generator[Callable[[str], None]]:
    """A progress bar for work in parts, shown only in a terminal.

    Args:
        total: number of parts.
        begin: text shown before the first part.
        columns: columns of rich, between the bar and the time.

    Yields:
        A function to call for each part, with its name.
    """
    with moving_bar(Console(markup=False), *columns, TimeLeftColumn()) as progress:
        task = progress.add_task(begin, total=total)
        yield lambda part: progress.update(task, advance=1, description=part)


class StudyProgress:
    """A progress bar; lines if the output is not a terminal.

    Args:
        total: number of trials.
        console: where to show it.
    """

    def __init__(self, total: int, console: Console) -> None:
        self._total, self._console = total, console
        self._done, self._run = 0, 0
        self._first = 0.0
        count = "{task.completed:.0f}/{task.total:.0f} trials  {task.fields[left]}"
        self._bar = moving_bar(console, TextColumn(count))
        self._task = self._bar.add_task("starting", total=total, left="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, result: Result, known: bool) -> None:
        """Shows that a trial has finished.

        Args:
            result: its result.
            known: whether the result was read from the study's folder.
        """
        before = self._done * _LINES // self._total
        self._done += 1
        if not known:
            self._run += 1
            self._first = self._first or time.monotonic()
        left = self.left()
        if result.failure and not known:
            self._console.print(
                f"{result.key}: failed: {result.failure}", highlight=False, soft_wrap=True
            )
        self._bar.update(
            self._task, completed=self._done, description=_WORDS[result.role], left=left
        )
        if not self._console.is_terminal and self._done * _LINES // self._total > before:
            self._console.print(
                f"{_WORDS[result.role]}: {self._done}/{self._total} trials  {left}", highlight=False
            )

    def set_total(self, total: int) -> None:
        """Sets the number of trials, of which more become known while a study runs."""
        self._total = total
        self._bar.update(self._task, total=total)

    def tell(self, line: str) -> None:
        """Prints a line above the bar."""
        say(self._console, line)

    def left(self) -> str:
        """The time left, if the remaining trials take as long as those so far."""
        if self._run < 2:
            return ""
        seconds = (time.monotonic() - self._first) / (self._run - 1) * (self._total - self._done)
        return f"{duration_text(seconds)} left"


def duration_text(seconds: float) -> str:
    """A duration in one unit.

    Returns:
        Number and unit.

    >>> duration_text(5.2), duration_text(200.0), duration_text(8000.0)
    ('5 s', '3 min', '2.2 h')
    """
    if seconds < 100.0:
        return f"{seconds:.0f} s"
    return f"{seconds / 60.0:.0f} min" if seconds < 6000.0 else f"{seconds / 3600.0:.1f} h"
