"""Pictures of the benchmarks, for the documentation."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from common import Spread, ratios
from grawa.lab.report.colours import Style, method_colour
from grawa.saving.whole import replacing

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#7F7F7F"
"""Colours of Okabe and Ito's palette, which colour-blind people can distinguish."""

PALETTE = (BLUE, "#D55E00", GREEN, "#CC79A7")
"""Colours of lines, from the same palette."""


def network_picture(found: Mapping[str, Mapping[str, Mapping[str, Any]]], path: Path) -> None:
    """Samples per second of each method, in percent of training without communication.

    Args:
        found: rate -> method -> figures, from `network.py`.
        path: the PNG file.
    """
    figure, axes = plt.subplots(1, len(found), sharey=True, figsize=(3.6 * len(found) + 1.6, 5.6))
    panels = axes if len(found) > 1 else [axes]
    for axis, (rate, methods) in zip(panels, found.items(), strict=True):
        names = [name for name in methods if "failed" not in methods[name]]
        shares = [100 * methods[name]["share_of_limit"] for name in names]
        axis.barh(names, shares, color=[_colour(name) for name in names])
        for name, share in zip(names, shares, strict=True):
            axis.text(
                share + 1,
                name,
                f"{share:.0f}" if share >= 9.5 else f"{share:.1f}",
                va="center",
            )
        axis.axvline(100, color=GREY, linestyle="--", linewidth=1)
        end = max([118.0, *(1.18 * share for share in shares)])  # so that numbers find room
        axis.set(title=_rate_text(rate), xlim=(0, end), xlabel="samples/s, % of the limit")
        axis.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    figure.tight_layout()
    save(figure, path)


def hosts_picture(
    found: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]], path: Path
) -> None:
    """Seconds of a round, in those of a bare all-reduce, and models that a host sends.

    Args:
        found: arrangement -> rate -> method -> "seconds" and "models_sent" of each turn.
        path: the PNG file.
    """
    figure, axes = plt.subplots(
        2, len(found), sharey=True, squeeze=False, figsize=(3.4 * len(found) + 1.8, 11)
    )
    longest = max((list(m) for rates in found.values() for m in rates.values()), key=len)
    for column, (arrangement, rates) in enumerate(found.items()):
        height = 0.8 / len(rates)
        for i, (rate, methods) in enumerate(rates.items()):
            names = [name for name in longest if name in methods]  # not all are everywhere
            at = [longest.index(name) + (i - (len(rates) - 1) / 2) * height for name in names]
            base = methods[names[0]]["seconds"]
            times = [ratios(methods[name]["seconds"], base).median for name in names]
            sent = [Spread.of(methods[name]["models_sent"]).median for name in names]
            for axis, values in zip(axes[:, column], (times, sent), strict=True):
                axis.barh(at, values, height, color=PALETTE[i], label=rate)
        for axis, label in zip(axes[:, column], ("time / all-reduce", "models sent"), strict=True):
            axis.set_yticks(range(len(longest)), longest)
            axis.set(title=f"{arrangement} processes", xlabel=label)
            axis.spines[["top", "right"]].set_visible(False)
        axes[0, column].axvline(1.0, color=GREY, linestyle="--", linewidth=1)
    axes[0, 0].invert_yaxis()
    axes[0, -1].legend(frameon=False, loc="lower right")
    figure.tight_layout()
    save(figure, path)


def time_to_loss_picture(
    arrangements: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]],
    metric: str,
    rate: str,
    reference: str,
    path: Path,
) -> None:
    """The consensus's error against seconds, of each method, on one task.

    Lines are medians over seeds, bands go from the smallest to the largest.

    Args:
        arrangements: processes on hosts -> method -> "seconds" and "errors" of each seed.
        metric: what the error is.
        rate: of the links.
        reference: the method whose error at the end gets a line across.
        path: the PNG file.
    """
    figure, axes = plt.subplots(
        1,
        len(arrangements),
        sharey=True,
        squeeze=False,
        figsize=(4.6 * len(arrangements), 5.2),
        layout="constrained",
    )
    lines: dict[str, Any] = {}
    for axis, (arrangement, methods) in zip(axes[0], arrangements.items(), strict=True):
        for name, runs in methods.items():
            lines[name] = _curves(axis, runs, name, _method_line(name, methods))
        ends = [run["errors"][-1] for run in methods.get(reference, []) if run["errors"]]
        if ends and None not in ends:
            axis.axhline(median(ends), color=GREY, linestyle=":", linewidth=1.6, zorder=0)
            lines[f"{reference} at its end"] = axis.lines[-1]
        axis.set(title=f"{_hosts_text(arrangement)}, {_rate_text(rate)}", xlabel="seconds")
        axis.set(xlim=(0, None), yscale="log")
        axis.spines[["top", "right"]].set_visible(False)
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes[0][0].set(ylabel=metric)
    columns = 2 * len(arrangements)
    figure.legend(lines.values(), lines, ncols=columns, loc="outside lower center", frameon=False)
    save(figure, path)


def _method_line(name: str, names: Iterable[str]) -> dict[str, Any]:
    """The line of a method: in its own colour, dashed if others of these names have that."""
    family = name.partition(",")[0]
    same = [other for other in names if other.partition(",")[0] == family]
    return Style(colour=method_colour(family), dashes=same.index(name), mark=0).line


def _hosts_text(arrangement: str) -> str:
    """Processes on hosts, in words.

    >>> _hosts_text("2x2"), _hosts_text("4x1")
    ('2 hosts x 2 processes', '4 hosts x 1 process')
    """
    hosts, each = arrangement.split("x")
    return f"{hosts} hosts x {each} process{'' if each == '1' else 'es'}"


def _curves(
    axis: Any, runs: Sequence[Mapping[str, Any]], name: str, style: Mapping[str, Any]
) -> Any:
    whole = [run for run in runs if run["errors"] and None not in run["errors"]]
    if not whole:
        return axis.plot([], [], label=name, **style)[0]
    seconds = [median(each) for each in zip(*(run["seconds"] for run in whole), strict=True)]
    errors = list(zip(*(run["errors"] for run in whole), strict=True))
    lowest, highest = [min(each) for each in errors], [max(each) for each in errors]
    axis.fill_between(seconds, lowest, highest, color=style["color"], alpha=0.12, linewidth=0)
    return axis.plot(seconds, [median(each) for each in errors], label=name, **style)[0]


def scale_picture(
    times: Mapping[str, Mapping[int, float]],
    memory: Mapping[str, Mapping[int, float]],
    predictions: Mapping[str, Mapping[str, Mapping[int, float]]],
    path: Path,
) -> None:
    """The cost of a worker in one process, and the predicted time of a step on many machines.

    Args:
        times: name -> workers -> microseconds of a worker-step.
        memory: name -> workers -> kilobytes of each further worker.
        predictions: link -> name -> workers -> milliseconds of a local step.
        path: the PNG file.
    """
    figure, (above, below) = plt.subplots(2, 2, figsize=(13, 11), layout="constrained")
    labels = ("time of a worker-step, us", "memory of each further worker, kB")
    for axis, series, label in zip(above, (times, memory), labels, strict=True):
        for i, (name, values) in enumerate(series.items()):
            style, mark = ("-", "o") if i % 2 == 0 else ("--", "s")
            _line(axis, values, name, PALETTE[i // 2], mark, linestyle=style)
        _by_workers(axis, "workers in one process", label)
    figure.legend(
        *above[0].get_legend_handles_labels(), fontsize=14, ncols=3, loc="outside upper center"
    )
    for axis, (link, methods) in zip(below, predictions.items(), strict=True):
        for i, (name, values) in enumerate(methods.items()):
            # Later lines may cover earlier ones.
            _line(axis, values, name, PALETTE[i], "osv^"[i], markersize=12 - 2 * i)
        _by_workers(axis, "workers, a machine each", "predicted time of a local step, ms")
        axis.set_title(_rate_text(link.split(":")[0]), fontsize=16)
    below[1].legend(fontsize=14)
    lowest, highest = zip(*(axis.get_ylim() for axis in below), strict=True)
    for axis in below:
        axis.set_ylim(min(lowest), max(highest))
    save(figure, path)


def _line(
    axis: Any, values: Mapping[int, float], name: str, colour: str, mark: str, **style: Any
) -> None:
    axis.plot(list(values), list(values.values()), label=name, color=colour, marker=mark, **style)


def _by_workers(axis: Any, workers: str, label: str) -> None:
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.set_xlabel(workers, fontsize=16)
    axis.set_ylabel(label, fontsize=16)
    axis.tick_params(labelsize=14)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def sync_picture(ratios: Mapping[str, Spread], path: Path) -> None:
    """The duration of a round of each method.

    Args:
        ratios: method -> quartiles and median of the ratio to the bare all-reduce, which is one of
            the methods.
        path: the PNG file.
    """
    figure, axis = plt.subplots(figsize=(7.2, 0.32 * len(ratios) + 1.2))
    medians = [median for _, median, _ in ratios.values()]
    spread = [
        [median - low for low, median, _ in ratios.values()],
        [high - median for _, median, high in ratios.values()],
    ]
    colours = [_round_colour(name) for name in ratios]
    axis.barh(list(ratios), medians, xerr=spread, color=colours, ecolor=GREY)
    axis.axvline(1.0, color=GREY, linestyle="--", linewidth=1)
    axis.set(xscale="log", xlabel="time of a round, in those of a bare all-reduce (quartiles)")
    axis.set_xticks([0.25, 0.5, 1, 2, 4, 8, 16], ["0.25", "0.5", "1", "2", "4", "8", "16"])
    axis.minorticks_off()
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    save(figure, path)


def _round_colour(method: str) -> str:
    if method == "bare all_reduce":
        return GREY
    if method.startswith(("PyTorch", "Accelerate", "torchft")):
        return ORANGE
    return GREEN if "," in method else BLUE


def gpu_picture(card: str, parts: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Rounds beside their kernels and the memory's limit, and what an attached step costs.

    Args:
        card: its name.
        parts: part -> item -> what was found, from `gpu.py`.
        path: the PNG file.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    rounds = dict(parts.get("round", {}))
    bandwidth = rounds.pop("copy", {}).get("bytes_per_second")
    bars = {
        "round": [1e3 * Spread.of(one["seconds"]).median for one in rounds.values()],
        "its kernels": [1e3 * one["activity"]["kernel_seconds"] for one in rounds.values()],
    }
    if bandwidth:
        limits = [1e3 * one["passes"] * one["bytes"] / bandwidth for one in rounds.values()]
        bars["limit of the memory"] = limits
    for i, (label, values) in enumerate(bars.items()):
        at = [place + 0.27 * (i - 1) for place in range(len(values))]
        left.barh(at, values, 0.27, label=label, color=(BLUE, GREEN, GREY)[i])
    left.set_yticks(range(len(rounds)), list(rounds))
    left.set(title=f"rounds on {card}", xlabel="ms", ylabel="method, hosted workers")
    steps = {
        f"{model}, {name}": ratios(own, one["seconds"]["bare"])
        for model, one in parts.get("step", {}).items()
        for name, own in one["seconds"].items()
        if name != "bare"
    }
    medians = [100 * (ratio.median - 1) for ratio in steps.values()]
    spread = [[100 * (r[i + 1] - r[i]) for r in steps.values()] for i in range(2)]
    right.barh(list(steps), medians, xerr=spread, color=BLUE, ecolor=GREY)
    right.axvline(0.5, color=GREY, linestyle="--", linewidth=1)
    right.set(title="attached local steps", xlabel="% longer than the bare step (target 0.5)")
    for axis in (left, right):
        axis.invert_yaxis()
        axis.spines[["top", "right"]].set_visible(False)
    handles = left.get_legend_handles_labels()
    figure.legend(*handles, frameon=False, ncols=3, loc="outside lower left")
    save(figure, path)


Point = tuple[float, float]
"""A mean and its standard error."""


def stragglers_picture(
    speeds: list[float], panels: Mapping[str, Mapping[str, list[Point]]], path: Path
) -> None:
    """The effect of one slow worker on training.

    Args:
        speeds: of the slow worker.
        panels: measure -> kind of run -> a point for each speed.
        path: the PNG file.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(4.4 * len(panels), 3.6))
    for axis, (what, lines) in zip(axes, panels.items(), strict=True):
        for name, points in lines.items():
            means, errors = zip(*points, strict=True)
            colour = BLUE if name.startswith("shared-count") else ORANGE
            style = "--" if name.endswith("virtual clock") else "-"
            axis.errorbar(
                range(len(speeds)), means, errors, label=name, color=colour, linestyle=style
            )
        axis.set_xticks(range(len(speeds)), [f"{speed:g}" for speed in speeds])
        axis.set(xlabel="speed of one worker of four", ylabel=what)
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    figure.tight_layout()
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Writes a picture, completely or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)


def _colour(method: str) -> str:
    if method == "no communication":
        return GREY
    if method.startswith(("DDP", "PyTorch", "torchft")):
        return ORANGE
    return GREEN if "," in method else BLUE


def _rate_text(rate: str) -> str:
    return rate.replace(", ", ",\n").replace("gbit", " Gbit/s").replace("mbit", " Mbit/s")
