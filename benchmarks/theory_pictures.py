"""Pictures of `theory.py`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from grawa.lab.report.colours import GREY, Style, method_colour
from grawa.lab.report.layout import log_scale
from pictures import legend_of_all, write_page

_LOWEST = 1e-8
"""Smallest value that is drawn, since without noise some methods reach the minimiser itself."""

_THEORY: Mapping[str, Any] = {"color": GREY, "linewidth": 5, "alpha": 0.5, "zorder": 1}
"""The line with which methods are compared."""


def convex_picture(
    convex: Mapping[str, Mapping[str, Mapping[str, Any]]], methods: Mapping[str, str], path: Path
) -> None:
    """Squared distance over rounds: a column for each task, a row for each condition.

    Args:
        convex: task -> condition -> method -> summary.
        methods: name -> label.
        path: the PNG file.
    """
    conditions = list(next(iter(convex.values())))
    height = 2.3 * len(conditions) + 1.6

    def draw(figure: Figure) -> None:
        axes = figure.subplots(len(conditions), len(convex), sharex=True, squeeze=False)
        for column, (task, found) in zip(axes.T, convex.items(), strict=True):
            for axis, condition in zip(column, conditions, strict=True):
                for style, method in zip(_styles(methods), methods, strict=True):
                    _curve(axis, found[condition][method], methods[method], style)
                _theory(axis, condition, found[condition])
                axis.set_title(f"{task}: {condition} steps")
                log_scale(axis, "x")
                _from_lowest(axis)
            column[-1].set_xlabel("rounds")
        for axis in axes[:, 0]:
            axis.set_ylabel("squared distance")
        legend_of_all(figure, axes.flat, 3)

    write_page(path, "Squared distance of the consensus from the minimiser", height, draw)


def _styles(methods: Mapping[str, str]) -> list[dict[str, Any]]:
    """The line of each method, in its colour, dashed so that lines below it are seen."""
    return [Style(colour=method_colour(m), dashes=i, mark=i).line for i, m in enumerate(methods)]


def _from_lowest(axis: Any) -> None:
    """A logarithmic axis of what is drawn."""
    log_scale(axis, "y")
    axis.set_ylim(bottom=max(_LOWEST, axis.get_ylim()[0]))


def _curve(axis: Any, summary: Mapping[str, Any], title: str, style: Mapping[str, Any]) -> None:
    """A line with a band of one standard error."""
    means, errors = summary["mean"], summary["standard_error"]
    rounds = range(1, len(means) + 1)
    axis.plot(rounds, means, label=title, **style)
    low = [max(m - e, 0.1 * m) for m, e in zip(means, errors, strict=True)]
    high = [m + e for m, e in zip(means, errors, strict=True)]
    axis.fill_between(rounds, low, high, color=style["color"], alpha=0.15, linewidth=0)


def _theory(axis: Any, condition: str, found: Mapping[str, Any]) -> None:
    """Draws the exact expectation if there is one; otherwise, for decaying rates, a line ~ 1/t.

    The line goes through the middle of data parallel's curve.
    """
    if "expected" in found:
        means = found["expected"]["mean"]
        label = "data parallel, LocalSGD: expectation, exact"
        axis.plot(range(1, len(means) + 1), means, label=label, **_THEORY)
    elif condition == "iid, decaying":
        means = found["data_parallel"]["mean"]
        middle = len(means) // 2
        rounds = range(max(1, middle // 4), len(means) + 1)
        line = [means[middle] * (middle + 1) / r for r in rounds]
        axis.plot(rounds, line, label="as 1/t", **_THEORY)


def nonconvex_picture(
    found: Mapping[str, Mapping[str, Any]],
    methods: Mapping[str, str],
    steps: Sequence[int],
    path: Path,
) -> None:
    """The averaged squared gradient norm over T, with a line proportional to 1/sqrt(T).

    Args:
        found: method -> summary.
        methods: name -> label.
        steps: the values of T.
        path: the PNG file.
    """
    title = "Squared gradient norm of the consensus, mean over T steps"

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        top = max(summary["mean"][0] for summary in found.values())
        line = [top * (steps[0] / t) ** 0.5 for t in steps]
        axis.plot(steps, line, label="as 1/sqrt(T)", **_THEORY)
        for style, (method, name) in zip(_styles(methods), methods.items(), strict=True):
            means, errors = found[method]["mean"], found[method]["standard_error"]
            axis.errorbar(steps, means, errors, marker="o", capsize=3, label=name, **style)
        log_scale(axis, "x")
        log_scale(axis, "y")
        axis.set_xticks(steps, map(str, steps))
        axis.set(xlabel="T, local steps of each worker", ylabel="mean squared gradient norm")
        legend_of_all(figure, [axis], 3)

    write_page(path, title, 5.2, draw)
