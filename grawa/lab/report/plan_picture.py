"""A picture of the predictions of `grawa plan`."""

from collections.abc import Mapping, Sequence
from functools import partial
from textwrap import fill
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from grawa.lab.planning.predict import VARIANTS, Measured, Method, Variant, predict, smallest_tau
from grawa.lab.report.colours import INK, method_colour
from grawa.lab.report.drawing import Picture
from grawa.lab.report.layout import Layout
from grawa.lab.report.plan import in_percent, intervals

_DASHES: Mapping[str, Any] = {
    "same": "-", "bf16": (0, (5, 2)), "int8": (0, (1, 1.5)), "topk": (0, (5, 1.5, 1, 1.5)),
}  # fmt: skip
"""By the dtype in which parameters are sent; lines with overlap have marks."""

_FINENESS = 8
"""Points of a line for each doubling of `sync_every`."""

_VISIBLE = 0.01
"""Lines that are nearer to each other everywhere are drawn as one."""

_LEGEND_LETTERS = 60
"""In a line of the legend, which is then no wider than the picture."""

_Lines = Mapping[str, tuple[Method, Variant]]
"""Name in the legend -> what is drawn."""


def plan_picture(measured: Measured, most_lost: float) -> Picture:
    """Share of full speed by `sync_every`: of all methods, and of the first with other rounds.

    Args:
        measured: the measurements.
        most_lost: the fraction of the time that may be lost.

    Returns:
        The picture.
    """
    methods = measured.methods
    panels: dict[str, _Lines] = {
        "Predicted speed with rounds that block training": {m.name: (m, Variant()) for m in methods}
    }
    first = next((method for method in methods if not method.shares_gradients), None)
    if first is not None:
        title = fill(f"Predicted speed of {first.name} with overlap and fewer bits", 55)
        panels[title] = {v.name.replace(", ", " + "): (first, v) for v in VARIANTS}
    layout = Layout(panels=len(panels), height=4.3)
    return Picture(
        name="plan",
        title="Share of full speed",
        caption="Predicted. Full speed is that without communication.",
        layout=layout,
        draw=partial(_draw, layout=layout, measured=measured, most_lost=most_lost, panels=panels),
    )


def _draw(
    figure: Figure,
    *,
    layout: Layout,
    measured: Measured,
    most_lost: float,
    panels: Mapping[str, _Lines],
) -> None:
    ticks = intervals(measured, most_lost)
    for axis, title in zip(layout.axes(figure), panels, strict=True):
        _draw_lines(axis, measured, most_lost, panels[title], ticks[-1])
        _draw_frame(axis, ticks, most_lost)
        axis.set_title(title)
        reached = f"smallest sync_every that reaches {in_percent(1.0 - most_lost)}"
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=10, title=reached)


def _draw_lines(axis: Any, measured: Measured, most_lost: float, lines: _Lines, last: int) -> None:
    """Draws lines, of which those that look the same are one, the fastest first in the legend."""
    fine = range(_FINENESS * (last.bit_length() - 1) + 1)
    taus = [round(2 ** (i / _FINENESS)) for i in fine]
    speeds = {
        name: [predict(measured, method, variant, tau).speed for tau in taus]
        for name, (method, variant) in lines.items()
    }
    for names in sorted(_indistinguishable(speeds), key=lambda names: -sum(speeds[names[0]])):
        label = ", ".join(names) + _range([
            smallest_tau(measured, *lines[name], most_lost) for name in names
        ])
        method, variant = lines[names[0]]
        style = {
            "color": method_colour(method.name),
            "linestyle": _DASHES[variant.comm_dtype],
            "marker": "o" if variant.overlap else "",
            "markevery": _FINENESS,
        }
        axis.plot(taus, speeds[names[0]], label=fill(label, _LEGEND_LETTERS), **style)


def _range(taus: Sequence[int | None]) -> str:
    """What a legend says of the smallest intervals of lines that are drawn as one."""
    known = [tau for tau in taus if tau is not None]
    if not known:
        return ""
    return ": " + " to ".join(f"{tau:,}" for tau in sorted({min(known), max(known)}))


def _indistinguishable(speeds: Mapping[str, Sequence[float]]) -> list[list[str]]:
    """Groups of lines that can't be told apart."""
    groups: list[list[str]] = []
    for name, line in speeds.items():
        for group in groups:
            if all(abs(x - y) < _VISIBLE for x, y in zip(speeds[group[0]], line, strict=True)):
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


def _draw_frame(axis: Any, ticks: tuple[int, ...], most_lost: float) -> None:
    """Draws the axes, and lines at full speed and at what was asked for."""
    reference = {"color": INK, "linewidth": 1.0, "alpha": 0.7, "zorder": 1.0}
    axis.axhline(1.0, **reference, linestyle="--", label="100%: no communication")
    asked = f"{in_percent(1.0 - most_lost)}: at most {in_percent(most_lost)} lost"
    axis.axhline(1.0 - most_lost, **reference, linestyle="-.", label=asked)
    axis.set_xscale("log", base=2)
    axis.set_xticks(ticks, [f"{tau:,}" for tau in ticks])
    axis.minorticks_off()
    axis.set_ylim(0.0, 1.05)
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.set(xlabel="sync_every (local steps between rounds)", ylabel="share of full speed")
