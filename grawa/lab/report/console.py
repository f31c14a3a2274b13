"""Progress of a run in the terminal, and the table at its end."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from grawa.rounds.report import RoundReport

_BLOCKS = "▁▂▃▄▅▆▇█"
_LINES = 10  # of progress, if the output is not a terminal


class RoundProgress:
    """A progress bar that shows the last round; lines if the output is not a terminal.

    Args:
        steps: local steps after which the run ends; `None` if a budget ends it.
        budget: seconds after which it ends, which the bar then shows; `None` for steps.
        console: where to show it.
    """

    def __init__(self, steps: int | None, budget: float | None, console: Console) -> None:
        self._end = float(steps or 1) if budget is None else budget
        self._unit = "step" if budget is None else "s"
        self._console = console
        self._bytes = 0
        self._shown = 0.0
        self._left_out: set[int] = set()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn(self._unit + " {task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("waiting for the first round", total=self._end)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, report: "RoundReport") -> None:
        """Shows a round."""
        self._bytes += report.bytes_sent
        line = describe_round(report, self._bytes)
        done = report.elapsed if self._unit == "s" else float(report.step)
        self._progress.update(self._task, completed=done, description=line)
        self._show_left_out(report)
        due = done * _LINES // self._end > self._shown * _LINES // self._end
        if not self._console.is_terminal and due:
            self._console.print(f"{self._unit} {done:.0f}/{self._end:.0f}  {line}")
            self._shown = done

    def _show_left_out(self, report: "RoundReport") -> None:
        """Prints when a worker is first left out, and when it takes part again."""
        for worker, why in report.left_out.items():
            if worker not in self._left_out:
                self._console.print(f"round {report.round}: worker {worker} left out: {why}")
        for worker, absence in report.absences.items():
            if absence.is_due:
                self._console.print(f"warning: worker {worker} {absence}", soft_wrap=True)
        for worker in self._left_out - set(report.left_out):
            self._console.print(f"round {report.round}: worker {worker} takes part again")
        self._left_out = set(report.left_out)


def say(console: Console, text: str) -> None:
    """Prints a sentence as it is, in which names are no markup and lines are not broken."""
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def describe_round(report: "RoundReport", bytes_sent: int) -> str:
    """A round in one line: number, loss, each worker's weight, distance, bytes."""
    parts = [f"round {report.round}", f"loss {float(report.losses.nanmean()):.3f}"]
    if report.weights is not None:
        parts.append(f"weights {weight_bars(report.weights.mean(dim=1).tolist())}")
    if report.consensus_distance is not None:
        parts.append(f"distance {report.consensus_distance:.2f}")
    parts.append(f"sent {bytes_text(bytes_sent)}")
    return "  ".join(parts)


def weight_bars(weights: Sequence[float]) -> str:
    """One bar per worker; half of the full height is the equal weight 1/N.

    Returns:
        One character per worker.

    >>> weight_bars([0.25, 0.25, 0.5, 0.0])
    '▅▅█▁'
    """
    top = len(_BLOCKS) - 1
    return "".join(_BLOCKS[min(top, int(w * len(weights) * top / 2 + 0.5))] for w in weights)


def bytes_text(count: float) -> str:
    """A number of bytes in decimal units.

    Returns:
        Number and unit.

    >>> bytes_text(1234567)
    '1.2 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def summary(finished: Mapping[str, Any]) -> Table:
    """The table at the end of a run, from its event "finished"."""
    table = Table(show_header=False)
    averaged = finished.get("averaged_rounds", 0)  # missing in runs of earlier versions
    what = "the averaged consensus" if averaged else "the consensus"
    table.add_row(f"{finished['metric']} of {what}", metric_text(finished))
    if averaged:
        table.add_row("rounds averaged", str(averaged))
    table.add_row("rounds", str(finished["round"]))
    table.add_row("local steps per worker", str(finished["step"]))
    table.add_row("sent per worker", bytes_text(finished["bytes_sent"]))
    table.add_row("seconds in total", f"{finished['elapsed']:.2f}")
    table.add_row("seconds in training", f"{finished['compute_seconds']:.2f}")
    table.add_row("seconds in rounds", f"{finished['round_seconds']:.2f}")
    table.add_row("of which blocked", f"{finished['exposed_seconds']:.2f}")
    return table


def metric_text(measured: Mapping[str, Any]) -> str:
    """A metric's value: in percent if it is an error rate.

    Returns:
        The value under "error" in `measured`; "metric" is its name.

    >>> metric_text({"metric": "test error", "error": 0.0417})
    '4.17%'
    """
    value: float | None = measured["error"]
    if value is None:
        return "not finite"
    return f"{value:.2%}" if measured["metric"].endswith("error") else f"{value:.4g}"
