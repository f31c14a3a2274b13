"""Pictures and animations of runs on the landscape of flat and sharp wells."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from grawa.lab.experiments.wells import Walked
from grawa.lab.report.colours import INK, PALETTE
from grawa.lab.report.drawing import in_style
from grawa.lab.report.layout import Layout
from grawa.lab.report.moving import frames, save_gif
from grawa.lab.tasks.wells import WELLS, landscape
from grawa.saving.whole import replacing

FRAMES = 81
"""Number of frames in an animation."""

END_COLOUR = PALETTE[4]
"""Colour of the point where the consensus ended; no worker has it."""

_ACROSS = 4
_FRAME_SECONDS, _LAST_SECONDS = 0.1, 3.0
_GIF_DPI = 88
_PNG_DPI = 120
_HALF_WIDTH = 5.4  # of a panel: the start is 4.5 from the middle
_POINTS = 161
_NAMED = 5  # workers in the legend, after which colours repeat
_LEVELS = np.linspace(0.1, 1.6, 16)
_GROUND = LinearSegmentedColormap.from_list("ground", ["#c0c0c0", "#fbfbfb"])
_MARKS = {"flat": ("o", 9.0), "sharp": ("D", 5.0)}  # and size, in points


class Panel:
    """One method's paths, which can be drawn up to any step.

    Args:
        axes: matplotlib axes, in which the landscape is drawn.
        walked: the run.
    """

    def __init__(self, axes: Any, walked: Walked) -> None:
        self._walk = walked.walk
        self._marks = _landscape(axes)
        axes.set_title(title_of(walked), fontsize=12.5, linespacing=1.25)
        self._lines = [
            axes.plot([], [], color=colour_of(i), linewidth=1.1, zorder=3)[0]
            for i in range(self._walk.workers.shape[1])
        ]
        self._heads = [
            axes.plot([], [], "o", color=line.get_color(), mec="white", ms=6.0, zorder=6)[0]
            for line in self._lines
        ]
        self._consensus = axes.plot(
            [], [], "o-", color=INK, linewidth=1.6, markersize=2.8, zorder=5
        )[0]
        self._end = axes.plot([], [], "*", color=END_COLOUR, mec=INK, markersize=15.0, zorder=7)[0]
        start = self._walk.consensus[0].tolist()
        self._marks += axes.plot(*start, "s", color="white", mec=INK, mew=1.6, ms=8.0, zorder=4)

    @property
    def steps(self) -> int:
        """Number of local steps of the run."""
        return len(self._walk.workers) - 1

    @property
    def moving(self) -> list[Any]:
        """The parts that change with the step, and those above them, from bottom to top."""
        return [*self._lines, *self._marks, self._consensus, *self._heads, self._end]

    def show(self, step: int) -> None:
        """Shows the paths up to a local step; at the last one also where the consensus ended."""
        until = min(step, self.steps)
        for i, (line, head) in enumerate(zip(self._lines, self._heads, strict=True)):
            path = self._walk.workers[: until + 1, i]
            line.set_data(path[:, 0].numpy(), path[:, 1].numpy())
            head.set_data(path[-1:, 0].numpy(), path[-1:, 1].numpy())
            head.set_visible(until < self.steps)
        known = sum(step_of_round <= until for step_of_round in self._walk.rounds)
        places = self._walk.consensus[:known]
        if until == self.steps:
            places = torch.cat([places, self._walk.end[None]])
            self._end.set_data(*self._walk.end[:, None].numpy())
        self._consensus.set_data(places[:, 0].numpy(), places[:, 1].numpy())
        self._end.set_visible(until == self.steps)


def title_of(walked: Walked) -> str:
    """A method and the result of its run, in two lines."""
    end = walked.end
    if not math.isfinite(end.loss):
        return f"{walked.method}\ndiverged"
    where = "in no well" if end.kind == "none" else f"{end.kind} well"
    return f"{walked.method}\nloss {end.loss:.3f}, {where}"


def colour_of(worker: int) -> str:
    """The colour of a worker; black and the end's orange are reserved for the consensus."""
    colours = [colour for colour in PALETTE if colour not in {INK, END_COLOUR}]
    return colours[worker % len(colours)]


def draw(figure: Figure, runs: Sequence[Walked]) -> list[Panel]:
    """Fills a figure with a panel for each method, and a legend.

    Returns:
        The panels, at the start.
    """
    layout = Layout(panels=len(runs), across=_ACROSS)
    axes = layout.axes(figure, sharex=True, sharey=True)
    panels = [Panel(panel, walked) for panel, walked in zip(axes, runs, strict=True)]
    for i, panel in enumerate(axes):
        panel.set(ylabel="" if i % _ACROSS else "second parameter")
        is_lowest = i + _ACROSS >= len(axes)
        panel.set(xlabel="first parameter" if is_lowest else "")
        panel.tick_params(labelbottom=is_lowest)
    figure.set_layout_engine("constrained", h_pad=0.09)
    _legend(figure, runs[0].walk.workers.shape[1])
    return panels


def draw_paths(runs: Sequence[Walked], path: Path) -> None:
    """Writes a PNG of the whole paths.

    Args:
        runs: one of each method.
        path: the file.
    """
    with in_style(path.stem), replacing(path) as temporary:
        figure = Figure(figsize=size_of(len(runs)), dpi=_PNG_DPI)
        for panel in draw(figure, runs):
            panel.show(panel.steps)
        figure.savefig(temporary, format="png")


def draw_animation(
    runs: Sequence[Walked], path: Path, after_frame: Callable[[], object] = lambda: None
) -> None:
    """Writes a GIF of the paths as they grow.

    Args:
        runs: one of each method.
        path: the file.
        after_frame: called after each of `FRAMES` frames.
    """
    pictures = []
    with in_style(path.stem):
        figure = Figure(figsize=size_of(len(runs)), dpi=_GIF_DPI)
        panels = draw(figure, runs)
        steps = max(panel.steps for panel in panels)

        def show(step: int) -> None:
            for panel in panels:
                panel.show(step)

        at = [round(steps * i / (FRAMES - 1)) for i in range(FRAMES)]
        for picture in frames(figure, [a for panel in panels for a in panel.moving], show, at):
            pictures.append(picture)
            after_frame()
    save_gif(pictures, path, PALETTE, seconds=_FRAME_SECONDS, last_seconds=_LAST_SECONDS)


def size_of(count: int) -> tuple[float, float]:
    """Width and height in inches of a figure with `count` panels."""
    across = min(count, _ACROSS)
    return max(6.6, 2.6 * across + 0.5), 3.2 * math.ceil(count / _ACROSS) + 1.0


def _landscape(axes: Any) -> list[Any]:
    """Draws contours of the loss, darker where it is low; returns the marks of the minima."""
    line = torch.linspace(-_HALF_WIDTH, _HALF_WIDTH, _POINTS, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)
    heights, at = landscape(grid).numpy(), line.numpy()
    axes.contourf(at, at, heights, levels=_LEVELS, cmap=_GROUND, extend="max")
    axes.contour(at, at, heights, levels=_LEVELS, colors=INK, linewidths=0.4, alpha=0.35)
    axes.grid(False)
    axes.set(xlim=(-_HALF_WIDTH, _HALF_WIDTH), ylim=(-_HALF_WIDTH, _HALF_WIDTH), aspect="equal")
    axes.set(xticks=(-4, -2, 0, 2, 4), yticks=(-4, -2, 0, 2, 4))
    marks = []
    for well in WELLS:
        mark, size = _MARKS[well.kind]
        marks += axes.plot(*well.place, mark, mfc="none", mec=INK, mew=1.5, ms=size, zorder=4)
    return marks


def _legend(figure: Figure, workers: int) -> None:
    def mark(shape: str, label: str, size: float, fill: str = "none") -> Line2D:
        style: dict[str, Any] = {"marker": shape, "markersize": size, "mfc": fill, "mec": INK}
        return Line2D([], [], linestyle="", label=label, mew=1.5, **style)

    shown = [
        Line2D([], [], color=colour_of(i), label=f"worker {i}") for i in range(min(workers, _NAMED))
    ]
    shown += [
        Line2D([], [], color=INK, marker="o", markersize=3.5, label="consensus after each round"),
        mark("s", "start", 8.0, "white"),
        mark("*", "end of the consensus", 14.0, END_COLOUR),
        mark(_MARKS["flat"][0], "flat minimum", _MARKS["flat"][1]),
        mark(_MARKS["sharp"][0], "sharp minimum", _MARKS["sharp"][1]),
    ]
    figure.legend(handles=shown, loc="outside lower center", ncols=_NAMED, fontsize=11)
