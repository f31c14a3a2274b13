"""How far training is, in a terminal, a notebook or a log."""

import shutil
import sys
import time
from datetime import timedelta
from math import inf
from typing import TextIO

from grawa.counts import check_count
from grawa.launching.output import Form, show
from grawa.process_group import is_first_process
from grawa.rounds.report import RoundReport

_BAR = 20
"""Characters of the bar."""

_REDRAW_SECONDS, _LINE_SECONDS = 0.1, 10.0
"""The least time from one line to the next, where it is drawn anew, and where it is not."""


class Progress:
    """A callback for `Averager(on_round=...)` that shows on the first process how far training is.

    In a terminal and in a notebook a line is drawn anew after each round, also under
    `grawa.launch`; elsewhere a line is printed every 10 s at most.

    Args:
        total_steps: optimizer steps of a worker, from the first to the last; `UserError` if there
            are none.
        file: where it is shown, such as `sys.stderr`; standard output by default.

    >>> Progress(total_steps=100)
    Progress(total_steps=100)
    """

    def __init__(self, total_steps: int, *, file: TextIO | None = None) -> None:
        check_count("total_steps", total_steps)
        self._total, self._file = total_steps, file
        self._first: tuple[int, float] | None = None
        self._shown_at = -inf
        self._columns = 0
        self._is_over = False

    def __repr__(self) -> str:
        return f"Progress(total_steps={self._total})"

    def __call__(self, report: RoundReport) -> None:
        """Shows a round."""
        if not is_first_process():
            return
        now, was_over = time.monotonic(), self._is_over
        self._is_over = report.applied_step >= self._total
        self._first = self._first or (report.applied_step, now)
        stream = sys.stdout if self._file is None else self._file
        form = Form.of(stream)
        pause = _REDRAW_SECONDS if form.redraws else _LINE_SECONDS
        if was_over or (now - self._shown_at < pause and not self._is_over):
            return
        self._shown_at = now
        try:
            show(self._drawn(self._line(report, now), form), stream)
        except OSError:  # nobody reads it any more, as behind `| head`
            self._shown_at = inf

    def _drawn(self, line: str, form: Form) -> str:
        """The line with what ends it, or puts it in the place of the one before."""
        if not form.redraws:
            return line + "\n"
        if form.is_terminal:
            line = line[: shutil.get_terminal_size().columns - 1]
        before, self._columns = self._columns, len(line)
        return "\r" + line.ljust(before) + ("\n" if self._is_over else "")

    def _line(self, report: RoundReport, now: float) -> str:
        step = min(report.applied_step, self._total)
        bar = "#" * (_BAR * step // self._total)
        parts = [f"step {step} of {self._total} [{bar:.<{_BAR}}] round {report.round}"]
        known = report.losses[report.losses.isfinite()]
        if len(known):
            parts.append(f"loss {float(known.mean()):.3g}")
        assert self._first is not None, "it was set before"
        first, began = self._first
        if step < self._total and step > first:
            seconds = (now - began) / (step - first) * (self._total - step)
            parts.append(f"{timedelta(seconds=round(seconds))} left")
        return ", ".join(parts)
