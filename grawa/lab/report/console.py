"""What commands print: sentences, a run's results, and how numbers are written."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def say(console: Console, text: str) -> None:
    """Prints a sentence as it is, in which names are no markup and lines are not broken."""
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def in_words(names: Sequence[str]) -> str:
    """A list as it is said.

    Returns:
        The text.

    >>> in_words(["a"]), in_words(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


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


def summary(finished: Mapping[str, Any], *, is_modelled: bool) -> Table:
    """The table at the end of a run.

    Args:
        finished: the run's event "finished".
        is_modelled: whether seconds are those of a virtual clock.

    Returns:
        The table.
    """
    table = Table(show_header=False)
    averaged = finished.get("averaged_rounds", 0)  # missing in runs of earlier versions
    what = "the averaged consensus" if averaged else "the consensus"
    seconds = "modelled seconds" if is_modelled else "seconds"
    table.add_row(f"{finished['metric']} of {what}", metric_text(finished))
    if averaged:
        table.add_row("rounds averaged", str(averaged))
    table.add_row("rounds", str(finished["round"]))
    table.add_row("local steps per worker", str(finished["step"]))
    table.add_row("sent per worker", bytes_text(finished["bytes_sent"]))
    table.add_row(f"{seconds} in total", f"{finished['elapsed']:.2f}")
    table.add_row(f"{seconds} in training", f"{finished['compute_seconds']:.2f}")
    table.add_row(f"{seconds} in rounds", f"{finished['round_seconds']:.2f}")
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
