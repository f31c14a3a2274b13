"""Tables for the terminal and for pages, and how their numbers are written."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from textwrap import fill

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable
from rich.text import Text

from grawa.lab.report.console import bytes_text
from grawa.lab.report.letters import spelled
from grawa.lab.report.statistics import Difference, Mean

_SHORT = 8
"""A heading of at most so many letters stays in one line."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell.

    Attributes:
        text: what is shown.
        value: the number by which it is sorted, in the unit that is shown; cells without one come
            last.
        error: the standard error that is shown beside the value.
        high: the upper end of the interval that is shown; the value is the lower one.
        strong: whether it is emphasised.
    """

    text: str
    value: float | None = None
    error: float | None = None
    high: float | None = None
    strong: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of cells.

    Attributes:
        name: of its files, without a suffix.
        title: above it.
        columns: for each, its heading and whether it has numbers.
        rows: each with as many cells as there are columns.
        note: shown below it.
        printed: whether it is shown in the terminal too.
    """

    name: str
    title: str
    columns: Sequence[tuple[str, bool]]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    printed: bool = False


def as_rich(table: Table) -> RichTable:
    """The table for a terminal."""
    shown = RichTable(
        title=Text(spelled(table.title)),
        title_justify="left",
        caption=Text(spelled(table.note)) if table.note else None,
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for place, (heading, numeric) in enumerate(table.columns):
        text = _wrapped(heading, [row[place].text for row in table.rows]) if numeric else heading
        shown.add_column(
            Text(spelled(text)), justify="right" if numeric else "left", overflow="fold"
        )
    for row in table.rows:
        shown.add_row(*(Text(spelled(cell.text), "bold" if cell.strong else "") for cell in row))
    return shown


def _wrapped(heading: str, cells: Sequence[str]) -> str:
    r"""A heading in lines that are no wider than its column must be.

    A table that is wider than the terminal breaks words in its widest columns, so that a long
    heading would cost other columns theirs.

    Returns:
        The heading.

    >>> _wrapped("noticed after", ["16.5 s"]), _wrapped("p, Holm", ["0.1"])
    ('noticed\nafter', 'p, Holm')
    """
    return fill(heading, max(_SHORT, *map(len, [*heading.split(), *cells])))


def with_error(mean: Mean, text: Callable[[float], str]) -> str:
    """A mean and its standard error, if it has one, formatted by `text`."""
    if math.isnan(mean.error):
        return text(mean.mean)
    return f"{text(mean.mean)} ± {text(mean.error)}"


@dataclass(frozen=True)
class Unit:
    """Formats values of a metric.

    Args:
        metric: its name; error rates are written in percent.
    """

    metric: str

    @property
    def in_percent(self) -> bool:
        """Whether it is an error rate."""
        return self.metric.endswith("error")

    @property
    def scale(self) -> float:
        """The factor by which values are multiplied before they are shown."""
        return 100.0 if self.in_percent else 1.0

    @property
    def label(self) -> str:
        """The label of an axis or a column."""
        return f"{self.metric} (%)" if self.in_percent else self.metric

    @property
    def points(self) -> str:
        """The unit of a difference, with a space before it."""
        return " points" if self.in_percent else ""

    def text(self, value: float) -> str:
        """A value, without its unit.

        Returns:
            The value, with as many digits as are useful.

        >>> Unit("test error").text(0.0417), Unit("excess loss").text(0.01234)
        ('4.17', '0.01234')
        """
        return f"{self.scale * value:.2f}" if self.in_percent else f"{value:.4g}"

    def mean(self, mean: Mean) -> str:
        """A mean, with its standard error if there is one.

        Returns:
            Both, without the unit.

        >>> Unit("test error").mean(Mean(0.0417, 0.002, 8))
        '4.17 ± 0.20'
        >>> Unit("bits per byte").mean(Mean(4.2216, 0.0125, 8))
        '4.222 ± 0.013'
        """
        return with_error(mean, self._within(mean.error))

    def change(self, difference: Difference) -> str:
        """The mean of a difference, with its sign.

        Returns:
            The mean, without the unit.

        >>> Unit("test error").change(Difference(0.0121, -0.002, 0.022, 0.1, 8))
        '+1.21'
        >>> Unit("test error").change(Difference(-0.00001, -0.002, 0.022, 0.1, 8))
        '0.00'
        """
        return _signed(difference.mean, self._within(_half(difference)))

    def interval(self, difference: Difference) -> str:
        """The confidence interval of a difference.

        Returns:
            Its ends, without the unit.

        >>> Unit("test error").interval(Difference(0.01, -0.002, 0.022, 0.1, 8))
        '-0.20 to +2.20'
        >>> Unit("bits per byte").interval(Difference(-0.06806, -0.07928, -0.05684, 0.1, 8))
        '-0.079 to -0.057'
        """
        text = self._within(_half(difference))
        return f"{_signed(difference.low, text)} to {_signed(difference.high, text)}"

    def _within(self, spread: float) -> Callable[[float], str]:
        """A formatter for values with this uncertainty, of which it shows two digits."""
        if self.in_percent or not 0.0 < spread < math.inf:
            return self.text
        decimals = max(0, 1 - math.floor(math.log10(spread)))
        return lambda value: f"{value:.{decimals}f}"


def _half(difference: Difference) -> float:
    """Half the width of a difference's interval."""
    return (difference.high - difference.low) / 2.0


def _signed(value: float, text: Callable[[float], str]) -> str:
    written = text(abs(value))
    return written if not float(written) else f"{'-' if value < 0.0 else '+'}{written}"


def mean_cell(mean: Mean, unit: Unit) -> Cell:
    """A mean and its standard error."""
    return Cell(text=unit.mean(mean), value=unit.scale * mean.mean, error=unit.scale * mean.error)


def change_cell(difference: Difference, unit: Unit, *, strong: bool) -> Cell:
    """The mean of a difference."""
    return Cell(text=unit.change(difference), value=unit.scale * difference.mean, strong=strong)


def interval_cell(difference: Difference, unit: Unit) -> Cell:
    """The confidence interval of a difference."""
    low, high = unit.scale * difference.low, unit.scale * difference.high
    return Cell(text=unit.interval(difference), value=low, high=high)


def amounts_text(axis: str, amounts: Sequence[float]) -> str:
    """The range of some amounts on the axis of a study, whose clock is modelled; without NaNs.

    Returns:
        The least and the largest, or one amount if both have the same text; "" without amounts.

    >>> amounts_text("time", [8.2483, 8.2512]), amounts_text("time", [8.39, 8.25])
    ('8.25 modelled seconds', '8.25 to 8.39 modelled seconds')
    """
    known = sorted(amount for amount in amounts if not math.isnan(amount))
    ends = dict.fromkeys(amount_text(axis, amount) for amount in (known[:1] + known[-1:]))
    if axis == "time" and ends:
        return " to ".join(end.removesuffix(" s") for end in ends) + " modelled seconds"
    return " to ".join(ends)


def amount_text(axis: str, amount: float) -> str:
    """An amount on an axis, with its unit.

    Returns:
        Number and unit.

    >>> amount_text("time", 48.64), amount_text("bytes", 920_900), amount_text("steps", 960)
    ('48.6 s', '920.9 kB', '960 steps')
    """
    if axis == "time":
        return f"{amount:.3g} s" if amount < 1000 else f"{amount:,.0f} s"
    if axis == "bytes":
        return bytes_text(amount)
    return f"{amount:,.0f} {axis}"
