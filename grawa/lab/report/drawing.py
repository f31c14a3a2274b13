"""The style of pictures, and their files: for a page, and for a column of a paper."""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from grawa.lab.report.colours import INK
from grawa.lab.report.layout import COLUMN_WIDTH, PAGE_WIDTH, Layout
from grawa.saving.whole import replacing

_FONT_SIZE = 11.0
"""In a page, in points."""

_TITLE_HEIGHT = 0.3
"""Of a picture's title, in inches."""

_COLUMN_SCALE = 8.0 / _FONT_SIZE
"""Of text, lines and marks in a paper's column, where text has 8 points."""


def _style(scale: float) -> dict[str, Any]:
    return {
        "font.family": "sans-serif",
        "font.size": _FONT_SIZE * scale,
        "axes.titlesize": _FONT_SIZE * scale,
        "figure.titlesize": 12.0 * scale,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.linewidth": 0.8 * scale,
        "grid.color": INK,
        "grid.alpha": 0.12,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "legend.frameon": False,
        "legend.fontsize": 10.0 * scale,
        "lines.linewidth": 1.8 * scale,
        "lines.markersize": 5.0 * scale,
        "svg.fonttype": "none",
        "pdf.fonttype": 42,  # TrueType, which publishers accept
        "text.parse_math": False,  # names may contain dollar signs
        "figure.constrained_layout.use": True,
    }


def in_style(name: str, scale: float = 1.0) -> AbstractContextManager[None]:
    """A context that sets the style of figures made and drawn within it.

    Args:
        name: the picture's name, from which identifiers in an SVG are made, so unique in a page.
        scale: of text, lines and marks.

    Returns:
        The context.
    """
    style: Any = {**_style(scale), "svg.hashsalt": name}
    return mpl.rc_context(style)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture.

    Attributes:
        name: of its file, without a suffix.
        title: in a few words.
        caption: what it shows.
        layout: of its panels.
        draw: fills an empty figure.
    """

    name: str
    title: str
    caption: str
    layout: Layout
    draw: Callable[[Figure], object]

    def svg(self) -> str:
        """The picture as an SVG element, with the page's background and text colour."""
        text = StringIO()
        with in_style(self.name):
            self._figure(PAGE_WIDTH).savefig(
                text, format="svg", transparent=True, metadata={"Date": None}
            )
        element = text.getvalue()[text.getvalue().index("<svg") :]
        element = re.sub(r"<metadata>.*?</metadata>\s*", "", element, flags=re.DOTALL)
        element = re.sub(r'(width|height)="[\d.]+pt" ', "", element, count=2)
        title = self.title.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
        element = element.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
        return element.replace(INK, "currentColor")

    def save_png(self, path: Path) -> None:
        """Writes the picture with its title as a PNG on white, as wide as in a page."""
        with in_style(self.name), replacing(path) as temporary:
            figure = self._figure(PAGE_WIDTH)
            figure.set_figheight(figure.get_figheight() + _TITLE_HEIGHT)
            figure.suptitle(self.title)
            figure.savefig(temporary, format="png", dpi=120)

    def save_for_column(self, path: Path) -> None:
        """Writes the picture as wide as a column of a paper, 3.25 inches, with text of 8 points.

        Args:
            path: the file, ending in .svg or .pdf. An SVG has letters as shapes, so that they look
                the same everywhere.
        """
        form = path.suffix[1:]
        date = "Date" if form == "svg" else "CreationDate"
        with (
            in_style(self.name, _COLUMN_SCALE),
            mpl.rc_context({"svg.fonttype": "path"}),
            replacing(path) as temporary,
        ):
            figure = self._figure(COLUMN_WIDTH)
            figure.savefig(temporary, format=form, metadata={date: None})

    def _figure(self, width: float) -> Figure:
        figure = Figure(figsize=self.layout.size(width))
        self.draw(figure)
        return figure
