"""Weights as colours: a row for each parameter tensor."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

_MOST_LABELS = 16


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """One panel.

    Attributes:
        title: above it.
        cells: values, (rows, columns).
        rows: names of the rows, the first one on top.
        columns: numbers of the columns.
    """

    title: str
    cells: Sequence[Sequence[float]]
    rows: Sequence[str]
    columns: Sequence[int]


def draw_heat_maps(
    figure: Figure, panels: Sequence[Any], maps: Sequence[HeatMap], across: str
) -> None:
    """Draws weights, with one scale of colours for all panels.

    Args:
        figure: the figure.
        panels: as many as maps.
        maps: what to draw.
        across: label of the horizontal axis.
    """
    values = [v for each in maps for row in each.cells for v in row if math.isfinite(v)] or [0.0]
    shown = None
    for panel, each in zip(panels, maps, strict=True):
        shown = panel.pcolormesh(each.cells, cmap="cividis", vmin=min(values), vmax=max(values))
        panel.grid(visible=False)
        panel.set_ylim(len(each.cells), 0)
        _label(panel.set_xticks, [str(number) for number in each.columns], 8)
        _label(panel.set_yticks, [_short(name) for name in each.rows], _MOST_LABELS)
        panel.set(title=each.title, xlabel=across)
    if shown is not None:
        figure.colorbar(shown, ax=list(panels), label="weight times workers", aspect=30)


def _label(set_ticks: Any, labels: Sequence[str], most: int) -> None:
    """Labels the middle of cells, and leaves out labels if there are more than `most`."""
    every = max(1, -(-len(labels) // most))
    set_ticks([i + 0.5 for i in range(0, len(labels), every)], labels[::every], fontsize="small")


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"…{name[-17:]}"
