"""The style of pictures (a palette, and an ink that follows a page's theme), as SVG and PNG."""

import math
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from grawa.saving.whole import replacing

INK = "#1d1f21"
"""Colour of text, axes and black lines; in a page it becomes the page's text colour."""

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", INK)
"""Okabe and Ito's palette, which colour-blind people can distinguish, without its yellow."""

_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)))
_MARKS = "osv^D"

_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 11.0,
    "axes.titlesize": 11.0,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.12,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.0,
    "svg.fonttype": "none",
    "text.parse_math": False,  # names may contain dollar signs
    "figure.constrained_layout.use": True,
}


def in_style(name: str) -> AbstractContextManager[None]:
    """A context that sets the style of figures made and drawn within it.

    Args:
        name: the picture's name, from which identifiers in an SVG are made, so unique in a page.

    Returns:
        The context.
    """
    style: Any = {**_STYLE, "svg.hashsalt": name}
    return mpl.rc_context(style)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture.

    Attributes:
        name: of its file, without a suffix.
        title: in a few words.
        caption: what it shows.
        draw: fills an empty figure.
        size: width and height in inches.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[Figure], object]
    size: tuple[float, float]

    def svg(self) -> str:
        """The picture as an SVG element, with the page's background and text colour."""
        text = StringIO()
        with in_style(self.name):
            self._figure().savefig(text, format="svg", transparent=True, metadata={"Date": None})
        element = text.getvalue()[text.getvalue().index("<svg") :]
        element = re.sub(r"<metadata>.*?</metadata>\s*", "", element, flags=re.DOTALL)
        element = re.sub(r'(width|height)="[\d.]+pt" ', "", element, count=2)
        title = self.title.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
        element = element.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
        return element.replace(INK, "currentColor")

    def save_png(self, path: Path) -> None:
        """Writes the picture as a PNG on white."""
        with in_style(self.name), replacing(path) as temporary:
            self._figure().savefig(temporary, format="png", dpi=120)

    def _figure(self) -> Figure:
        figure = Figure(figsize=self.size)
        self.draw(figure)
        return figure


def line_style(index: int) -> dict[str, Any]:
    """The style of line number `index`: a colour and, when these repeat, a dash pattern."""
    round_, place = divmod(index, len(PALETTE))
    return {"color": PALETTE[place], "linestyle": _DASHES[round_ % len(_DASHES)]}


def mark_style(index: int) -> dict[str, Any]:
    """The style of point set number `index`: a colour and a mark."""
    return {"color": PALETTE[index % len(PALETTE)], "marker": _MARKS[index % len(_MARKS)]}


def grid_of(figure: Figure, count: int, across: int, **options: Any) -> list[Any]:
    """Axes for `count` panels, row by row; the rest of the last row stays empty."""
    rows = max(1, math.ceil(count / across))
    axes = figure.subplots(rows, min(across, max(1, count)), squeeze=False, **options).ravel()
    for axis in axes[count:]:
        axis.set_visible(False)
    return list(axes[:count])


def panel_size(count: int, across: int, height: float = 2.9) -> tuple[float, float]:
    """A figure's size for `count` panels."""
    return 8.0, height * max(1, math.ceil(count / across)) + 0.5


_NAME_LETTERS = 30
_NAME_LINE = 0.17
"""Height of a line of a name beside an axis, in inches."""


def rows_height(names: Sequence[str], each: float) -> float:
    """The height in inches of a panel with a row of at least height `each` for every name."""
    lines = max(in_lines(name).count("\n") + 1 for name in names)
    return max(each, _NAME_LINE * lines) * len(names) + 1.2


def name_rows(panel: Any, names: Sequence[str]) -> None:
    """Makes a row for each name, from the top, with the name beside the axis."""
    panel.set_yticks(range(len(names)), [in_lines(name) for name in names])
    panel.set_ylim(len(names) - 0.5, -0.5)


def in_lines(name: str) -> str:
    """A method's name, broken into lines at colons.

    Returns:
        The lines.

    >>> in_lines("mgrawa:norms=probe:outer.lr=1:outer.momentum=0.5").splitlines()
    ['mgrawa:norms=probe:outer.lr=1:', 'outer.momentum=0.5']
    """
    lines = [""]
    for part in re.findall(r"[^:]+:?", name):
        if lines[-1] and len(lines[-1] + part) > _NAME_LETTERS:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


_LEGEND_SIZE = 10
_HANDLE = 5.0 * _LEGEND_SIZE
"""Width of a legend's line sample, with the space around it, in points."""
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
    handles, labels = axis.get_legend_handles_labels()
    if len(labels) < 2:
        return
    widest = max(_width(label) for label in labels) + _HANDLE
    fitting = max(1, min(columns, int(figure.get_figwidth() * _POINTS_PER_INCH / widest)))
    rows, usual = (math.ceil(len(labels) / count) for count in (fitting, columns))
    more = (rows - usual) * _LEADING * _LEGEND_SIZE / _POINTS_PER_INCH
    figure.set_figheight(figure.get_figheight() + more)
    figure.legend(handles, labels, loc="outside lower center", ncols=fitting, fontsize=_LEGEND_SIZE)


def _width(text: str) -> float:
    """Width of a legend's text, in points."""
    return float(TextPath((0.0, 0.0), text, size=_LEGEND_SIZE).get_extents().width)


def spread_out(values: Sequence[float], factor: float = 30.0) -> bool:
    """Whether positive values span such a range that a logarithmic axis shows them better."""
    return min(values, default=0.0) > 0.0 and max(values) / min(values) > factor


def log_scale(panel: Any, which: str) -> None:
    """Makes an axis logarithmic, with plain numbers at 1, 2 and 5 of each power of ten.

    Args:
        panel: the panel.
        which: "x" or "y".
    """
    panel.set(**{f"{which}scale": "log"})
    axis = getattr(panel, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
