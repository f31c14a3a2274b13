"""Progress of a run: its last round, and which workers were left out."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import TextColumn

from grawa.lab.report.console import bytes_text, say
from grawa.lab.report.letters import BLOCKS
from grawa.lab.report.progress import TimeLeftColumn, moving_bar
from grawa.rounds.report import RoundReport

_LINES = 10  # of progress, if the output is not a terminal

_MOST_SHOWN = 16
"""Workers that are shown one by one; of more, the spread is."""


class RoundProgress:
    """A progress bar that shows the last round; lines if the output is not a terminal.

    Args:
        steps: local steps after which the run ends; `None` if a budget ends it.
        budget: seconds after which it ends, which the bar then shows; `None` for steps.
        is_modelled: whether seconds are those of a virtual clock.
        console: where to show it.
    """

    def __init__(
        self, steps: int | None, budget: float | None, is_modelled: bool, console: Console
    ) -> None:
        self._end = float(steps or 1) if budget is None else budget
        self._in_steps = budget is None
        unit = "modelled seconds" if is_modelled else "seconds"
        self._count = "step {:.0f}/{:.0f}" if self._in_steps else "{:.0f}/{:.0f} " + unit
        self._console = console
        self._bytes = 0
        self._shown = 0.0
        self._left_out: set[int] = set()
        self._bar = moving_bar(console, TextColumn("{task.fields[count]}"), TimeLeftColumn())
        begin = self._count.format(0, self._end)
        self._task = self._bar.add_task("waiting for the first round", total=self._end, count=begin)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, report: RoundReport) -> None:
        """Shows a round."""
        self._bytes += report.bytes_sent
        line = describe_round(report, self._bytes)
        done = float(report.step) if self._in_steps else report.elapsed
        count = self._count.format(done, self._end)
        self._bar.update(self._task, completed=done, description=line, count=count)
        self._show_left_out(report)
        due = done * _LINES // self._end > self._shown * _LINES // self._end
        if not self._console.is_terminal and due:
            say(self._console, f"{count}  {line}")
            self._shown = done

    def _show_left_out(self, report: RoundReport) -> None:
        """Prints when workers are first left out, and when they take part again."""
        where, now = f"round {report.round}: ", set(report.left_out)
        reasons: dict[str, list[int]] = {}
        for worker in sorted(now - self._left_out):
            reasons.setdefault(report.left_out[worker], []).append(worker)
        for why, workers in reasons.items():
            say(self._console, f"{where}{_named(workers)} left out: {why}")
        for worker, absence in report.absences.items():
            if absence.is_due:
                say(self._console, f"warning: worker {worker} {absence}")
        if again := sorted(self._left_out - now):
            verb = "takes" if len(again) == 1 else "take"
            say(self._console, f"{where}{_named(again)} {verb} part again")
        self._left_out = now


def _named(workers: Sequence[int]) -> str:
    """Workers by number; only how many, if they are too many."""
    if len(workers) > _MOST_SHOWN:
        return f"{len(workers)} workers"
    return f"worker{'s' if len(workers) > 1 else ''} {', '.join(map(str, workers))}"


def describe_round(report: RoundReport, bytes_sent: int) -> str:
    """A round in one line: number, loss, the workers' weights, distance, bytes."""
    parts = [f"round {report.round}", f"loss {float(report.losses.nanmean()):.3f}"]
    if report.weights is not None:
        parts.append(f"weights {weights_text(report.weights.mean(dim=1).tolist())}")
    if report.consensus_distance is not None:
        parts.append(f"distance {report.consensus_distance:.2f}")
    parts.append(f"sent {bytes_text(bytes_sent)}")
    return "  ".join(parts)


def weights_text(weights: Sequence[float]) -> str:
    """The workers' weights, of which half of the full height, or 1, is the equal weight 1/N.

    Returns:
        One bar per worker; for more than 16 the least, the median and the largest weight.

    >>> weights_text([0.25, 0.25, 0.5, 0.0])
    '▅▅█▁'
    >>> weights_text([0.005] * 10 + [0.01] * 80 + [0.015] * 10)
    '0.50 to 1.50 of 1/100, median 1.00'
    """
    count = len(weights)
    if count > _MOST_SHOWN:
        least, *_, most = (scaled := sorted(weight * count for weight in weights))
        return f"{least:.2f} to {most:.2f} of 1/{count}, median {scaled[count // 2]:.2f}"
    top = len(BLOCKS) - 1
    return "".join(BLOCKS[min(top, int(w * count * top / 2 + 0.5))] for w in weights)
