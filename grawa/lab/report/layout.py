"""The panels of a picture: their sizes, rows, legends and axes."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from grawa.lab.report.colours import GREY

PAGE_WIDTH = 8.0
"""Of a picture in a page, in inches."""

COLUMN_WIDTH = 3.25
"""Of a picture in a paper with two columns, in inches."""

_COLUMN_HEIGHT = 0.72
"""Of a panel in a column, where text is smaller, over that in a page."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Panels, row by row.

    Attributes:
        panels: number of them.
        across: of them side by side in a page.
        in_column: of them side by side in a column of a paper.
        height: of a row of panels in a page, in inches.
    """

    panels: int
    across: int = 1
    in_column: int = 1
    height: float = 2.9

    def size(self, width: float) -> tuple[float, float]:
        """Width and height in inches of a figure with this width."""
        rows = max(1, math.ceil(self.panels / self._across(width)))
        height = self.height * rows + 0.5
        return width, height if width > COLUMN_WIDTH else _COLUMN_HEIGHT * height

    def axes(self, figure: Figure, **options: Any) -> list[Any]:
        """Axes for all panels, row by row; the rest of the last row stays empty."""
        across = self._across(figure.get_figwidth())
        rows = max(1, math.ceil(self.panels / across))
        axes = figure.subplots(
            rows, min(across, max(1, self.panels)), squeeze=False, **options
        ).ravel()
        for axis in axes[self.panels :]:
            axis.set_visible(False)
        return list(axes[: self.panels])

    def _across(self, width: float) -> int:
        return self.across if width > COLUMN_WIDTH else self.in_column


_NAME_LETTERS = 30
_NAME_LINE = 0.17
"""Height of a line of a name beside an axis, in inches."""


def rows_height(names: Sequence[str], each: float) -> float:
    """The height in inches of a panel with a row of at least height `each` for every name."""
    lines = max(in_lines(name).count("\n") + 1 for name in names)
    return max(each, _NAME_LINE * lines) * len(names) + 1.2


def with_rows(panels: int, names: Sequence[str]) -> Layout:
    """Panels side by side with a row for every name."""
    return Layout(panels=panels, across=2, height=rows_height(names, 0.26))


def name_rows(panel: Any, names: Sequence[str]) -> None:
    """Makes a row for each name, from the top, with the name beside the axis."""
    panel.set_yticks(range(len(names)), [in_lines(name) for name in names])
    panel.set_ylim(len(names) - 0.5, -0.5)


def dots(panel: Any, values: Sequence[float], y: float, colour: str) -> None:
    """Draws the single values behind a mean, as dots at one height."""
    panel.plot(values, [y] * len(values), ".", color=colour, alpha=0.5)


def reference_line(panel: Any, at: float) -> None:
    """Draws the vertical line with which others are compared, behind everything else."""
    panel.axvline(at, linestyle="--", linewidth=1, color=GREY, zorder=0)


def in_lines(name: str) -> str:
    """A method's name, broken into lines at colons and slashes, or within very long words.

    Returns:
        The lines.

    >>> in_lines("mgrawa:norms=probe:outer.lr=1:outer.momentum=0.5").splitlines()
    ['mgrawa:norms=probe:outer.lr=1:', 'outer.momentum=0.5']
    >>> in_lines("experiments/of/this/month/robust.py:Median").splitlines()
    ['experiments/of/this/month/', 'robust.py:Median']
    """
    lines = [""]
    for part in re.findall(rf"[^:/]{{1,{_NAME_LETTERS}}}[:/]?|[:/]", name):
        if lines[-1] and len(lines[-1] + part) > _NAME_LETTERS:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


_HANDLE = 5.0
"""Width of a legend's line sample, with the space around it, in font sizes."""
_LEADING = 1.6
"""Distance between the lines of a legend, in font sizes."""
_POINTS_PER_INCH = 72.0


def legend_below(figure: Figure, axis: Any, columns: int = 4) -> None:
    """One legend for all panels, below them; the figure grows if long names need more rows.

    Args:
        figure: the figure.
        axis: a panel with all entries of the legend.
        columns: at most; fewer if names are too long.
    """
    handles, names = axis.get_legend_handles_labels()
    if len(names) < 2:
        return
    labels = [in_lines(name) if len(name) > 2 * _NAME_LETTERS else name for name in names]
    size = float(mpl.rcParams["legend.fontsize"])
    lines = [line for label in labels for line in label.split("\n")]
    widest = max(_width(line, size) for line in lines) + _HANDLE * size
    fitting = max(1, min(columns, int(figure.get_figwidth() * _POINTS_PER_INCH / widest)))
    rows, usual = (math.ceil(len(labels) / count) for count in (fitting, columns))
    more = (rows - usual + len(lines) - len(labels)) * _LEADING * size / _POINTS_PER_INCH
    figure.set_figheight(figure.get_figheight() + more)
    figure.legend(handles, labels, loc="outside lower center", ncols=fitting)


def _width(text: str, size: float) -> float:
    """Width of a text, in points."""
    return float(TextPath((0.0, 0.0), text, size=size).get_extents().width)


def spread_out(values: Sequence[float], factor: float = 30.0) -> bool:
    """Whether positive values span such a range that a logarithmic axis shows them better."""
    return min(values, default=0.0) > 0.0 and max(values) / min(values) > factor


_NARROW = 2.0
"""Width of a panel in inches."""


class _PlainNumbers(LogLocator):
    """Ticks at some multiples of powers of ten, or at fewer powers if the range is too wide."""

    def tick_values(self, vmin: float, vmax: float) -> Any:
        """The ticks for a range; a `LogLocator` with multiples has none for a wide one."""
        multiples = super().tick_values(vmin, vmax)
        powers = LogLocator(numticks=4).tick_values(vmin, vmax)
        return max(multiples, powers, key=lambda at: sum(vmin <= tick <= vmax for tick in at))


def log_scale(panel: Any, which: str) -> None:
    """Makes an axis logarithmic, with plain numbers at 1, 2 and 5 of each power of ten.

    Across a narrow panel they are at 1 and 3, so that they don't overlap, and along a wide range
    at powers of ten only.

    Args:
        panel: the panel.
        which: "x" or "y".
    """
    panel.set(**{f"{which}scale": "log"})
    axis = getattr(panel, f"{which}axis")
    width = panel.figure.get_figwidth() / panel.get_subplotspec().get_gridspec().ncols
    is_narrow = which == "x" and width < _NARROW
    axis.set_major_locator(_PlainNumbers(subs=(1.0, 3.0) if is_narrow else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
