"""Pictures of `theory.py`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

from grawa.lab.report.colours import PALETTE
from pictures import GREY, save

_STYLES = ("-", "--", "-.", ":")

_LOWEST = 1e-8
"""Smallest value that is drawn, since without noise some methods reach the minimiser itself."""


def convex_picture(
    convex: Mapping[str, Mapping[str, Mapping[str, Any]]], methods: Mapping[str, str], path: Path
) -> None:
    """Squared distance over rounds: a row for each task, a column for each condition.

    Args:
        convex: task -> condition -> method -> summary.
        methods: name -> label.
        path: the PNG file.
    """
    columns = max(len(conditions) for conditions in convex.values())
    size = (3.6 * columns, 3.4 * len(convex))
    figure, axes = plt.subplots(len(convex), columns, figsize=size, squeeze=False)
    for row, (task, conditions) in zip(axes, convex.items(), strict=True):
        for axis, (condition, found) in zip(row, conditions.items(), strict=True):
            for i, (method, title) in enumerate(methods.items()):
                _curve(axis, found[method], i, title)
            _theory(axis, condition, found)
            axis.set(title=f"{task}: {condition} steps", xscale="log", yscale="log")
            axis.set_ylim(bottom=max(_LOWEST, axis.get_ylim()[0]))
            axis.set_xlabel("rounds", fontsize=11)
            axis.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel("squared distance from\nthe minimiser", fontsize=11)
    known: dict[str, Any] = {}
    for axis in axes.flat:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            known.setdefault(label, handle)
    figure.tight_layout(rect=(0, 0.09, 1, 1))
    figure.legend(known.values(), known.keys(), loc="lower center", ncol=5, fontsize=11)
    save(figure, path)


def _curve(axis: Any, summary: Mapping[str, Any], i: int, title: str) -> None:
    """A line with a band of one standard error."""
    means, errors = summary["mean"], summary["standard_error"]
    rounds = range(1, len(means) + 1)
    colour, style = PALETTE[i % len(PALETTE)], _STYLES[i // 2 % len(_STYLES)]
    axis.plot(rounds, means, color=colour, linestyle=style, linewidth=1.6, label=title)
    low = [max(m - e, 0.1 * m) for m, e in zip(means, errors, strict=True)]
    high = [m + e for m, e in zip(means, errors, strict=True)]
    axis.fill_between(rounds, low, high, color=colour, alpha=0.15, linewidth=0)


def _theory(axis: Any, condition: str, found: Mapping[str, Any]) -> None:
    """Draws the exact expectation if there is one; otherwise, for decaying rates, a line ~ 1/t.

    The line goes through the middle of data parallel's curve.
    """
    if "expected" in found:
        means = found["expected"]["mean"]
        label = "data parallel, LocalSGD: expectation, exact"
        axis.plot(range(1, len(means) + 1), means, color=GREY, linewidth=5, alpha=0.5, label=label)
    elif condition == "iid, decaying":
        means = found["data_parallel"]["mean"]
        middle = len(means) // 2
        rounds = range(max(1, middle // 4), len(means) + 1)
        line = [means[middle] * (middle + 1) / r for r in rounds]
        axis.plot(rounds, line, color=GREY, linewidth=5, alpha=0.5, label="as 1/t")


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
    figure, axis = plt.subplots(figsize=(6.4, 4.6))
    for i, (method, title) in enumerate(methods.items()):
        means, errors = found[method]["mean"], found[method]["standard_error"]
        colour, style = PALETTE[i % len(PALETTE)], _STYLES[i // 2 % len(_STYLES)]
        axis.errorbar(
            steps, means, errors, color=colour, linestyle=style, marker="o", capsize=3, label=title
        )
    top = max(summary["mean"][0] for summary in found.values())
    line = [top * (steps[0] / t) ** 0.5 for t in steps]
    axis.plot(steps, line, color=GREY, linewidth=5, alpha=0.5, label="as 1/sqrt(T)")
    axis.set(xscale="log", yscale="log")
    axis.set_xticks(steps, [str(t) for t in steps])
    axis.minorticks_off()
    axis.set_xlabel("T, local steps of each worker", fontsize=12)
    axis.set_ylabel("squared gradient norm of the\nconsensus, mean over T steps", fontsize=12)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=10, frameon=False)
    figure.tight_layout()
    save(figure, path)
