"""The page of a benchmark's picture, and pictures with lines."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from grawa.lab.report.colours import GREY, Style, method_colour, numbered
from grawa.lab.report.drawing import Picture
from grawa.lab.report.layout import Layout, log_scale

_LIBRARIES = ("grawa ", "PyTorch ", "Accelerate ", "torchft ")
"""Whose names may stand before a method's."""

_NO_METHOD = ("bare all_reduce", "bare all-reduce", "no communication")
"""What methods are compared with."""


def write_page(path: Path, title: str, height: float, draw: Callable[[Figure], object]) -> None:
    """Writes a picture in the style and width of the pictures of studies.

    Args:
        path: the PNG file, which is written completely or not at all.
        title: of the picture.
        height: of all panels with their legend, in inches.
        draw: fills an empty figure.
    """
    layout = Layout(panels=1, height=height)
    Picture(name=path.stem, title=title, caption="", layout=layout, draw=draw).save_png(path)


def colour_of(name: str) -> str:
    """The colour of a method, whichever library it is of and whichever options follow a comma.

    >>> colour_of("torchft LocalSGD") == colour_of("LocalSGD, int8") == method_colour("local_sgd")
    True
    """
    family = name.partition(",")[0]
    if family in _NO_METHOD:
        return GREY
    for library in _LIBRARIES:
        family = family.removeprefix(library)
    # PyTorch's function takes the mean of all models, as LocalSGD does.
    return method_colour("local_sgd" if family == "average_parameters" else family)


def level_line(axis: Any, at: float, label: str) -> None:
    """Draws the horizontal line with which others are compared, behind everything else."""
    axis.axhline(at, linestyle=":", linewidth=1.6, color=GREY, zorder=0, label=label)


def legend_of_all(figure: Figure, panels: Iterable[Any], columns: int) -> None:
    """One legend with each label of these panels once, below them."""
    known: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            known.setdefault(label, handle)
    figure.legend(known.values(), known.keys(), ncols=columns, loc="outside lower center")


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

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, len(arrangements), sharey=True, squeeze=False)[0]
        for axis, (arrangement, methods) in zip(axes, arrangements.items(), strict=True):
            for name, runs in methods.items():
                _curves(axis, runs, name, _method_line(name, methods))
            ends = [run["errors"][-1] for run in methods.get(reference, []) if run["errors"]]
            if ends and None not in ends:
                level_line(axis, median(ends), f"{reference} at its end")
            axis.set(title=hosts_text(arrangement), xlabel="seconds", xlim=(0, None), yscale="log")
            axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)))
            axis.yaxis.set_minor_locator(NullLocator())
            axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes[0].set(ylabel=metric)
        legend_of_all(figure, axes, 4)

    write_page(path, f"Time to an error over links of {rate_text(rate)}", 5.2, draw)


def _method_line(name: str, names: Iterable[str]) -> dict[str, Any]:
    """The line of a method: in its own colour, dashed if others of these names have that."""
    same = [other for other in names if colour_of(other) == colour_of(name)]
    return Style(colour=colour_of(name), dashes=same.index(name), mark=0).line


def hosts_text(arrangement: str) -> str:
    """Processes on hosts, in words.

    >>> hosts_text("2x2"), hosts_text("4x1")
    ('2 hosts x 2 processes', '4 hosts x 1 process')
    """
    hosts, each = arrangement.split("x")
    return f"{hosts} hosts x {each} process{'' if each == '1' else 'es'}"


def _curves(
    axis: Any, runs: Sequence[Mapping[str, Any]], name: str, style: Mapping[str, Any]
) -> None:
    whole = [run for run in runs if run["errors"] and None not in run["errors"]]
    seconds = [median(each) for each in zip(*(run["seconds"] for run in whole), strict=True)]
    errors = list(zip(*(run["errors"] for run in whole), strict=True))
    lowest, highest = [min(each) for each in errors], [max(each) for each in errors]
    axis.fill_between(seconds, lowest, highest, color=style["color"], alpha=0.12, linewidth=0)
    axis.plot(seconds, [median(each) for each in errors], label=name, **style)


Series = Mapping[str, Mapping[int, float]]
"""Name -> workers -> value."""


def scale_picture(
    times: Series, memory: Series, predictions: Mapping[str, Series], step: float, path: Path
) -> None:
    """The cost of a worker in one process, and the predicted time of a step on many machines.

    Args:
        times: microseconds of a worker-step.
        memory: kilobytes of each further worker.
        predictions: link -> milliseconds of a local step of each method.
        step: milliseconds of a step without communication.
        path: the PNG file.
    """
    title = "Many workers in one process, and predictions for many machines"

    def draw(figure: Figure) -> None:
        measured, predicted = figure.subplots(2, 2)
        costs = (("microseconds of a worker-step", times), ("kB of each further worker", memory))
        for axis, (what, series) in zip(measured, costs, strict=True):
            for i, (name, values) in enumerate(series.items()):
                style = {"linestyle": "--", "marker": "s"} if i % 2 else {"marker": "o"}
                _line(axis, name, values, **numbered(i // 2).line | style)
            _by_workers(axis, "workers in one process", what)
        for axis, (link, lines) in zip(predicted, predictions.items(), strict=True):
            level_line(axis, step, "no communication")
            for i, (name, values) in enumerate(lines.items()):
                # Later lines may cover earlier ones, which have larger marks.
                marks = {"marker": "osv^"[i], "markersize": 10 - 2 * i}
                _line(axis, name, values, **_method_line(name, lines) | marks)
            _by_workers(axis, "workers, a machine each", "predicted time of a local step, ms")
            axis.set_title(f"links of {rate_text(link.partition(':')[0])}")
        lowest, highest = zip(*(axis.get_ylim() for axis in predicted), strict=True)
        for axis in predicted:
            axis.set_ylim(min(lowest), max(highest))
        legend_of_all(figure, [*measured, *predicted], 2)

    write_page(path, title, 9.2, draw)


def _line(axis: Any, name: str, values: Mapping[int, float], **style: Any) -> None:
    axis.plot(list(values), list(values.values()), label=name, **style)


def _by_workers(axis: Any, workers: str, label: str) -> None:
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    log_scale(axis, "y")
    axis.set(xlabel=workers, ylabel=label)


Point = tuple[float, float]
"""A mean and its standard error."""


def stragglers_picture(
    speeds: Sequence[float],
    seconds: float,
    panels: Mapping[str, Mapping[str, Sequence[Point]]],
    path: Path,
) -> None:
    """The effect of one slow worker on training.

    Args:
        speeds: of the slow worker, the first of which is that of the others.
        seconds: of training.
        panels: measure -> kind of run -> a point for each speed.
        path: the PNG file.
    """
    title = f"LGRAWA for {seconds:g} seconds with one slow worker of four, by schedule"

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, len(panels))
        for axis, (what, lines) in zip(axes, panels.items(), strict=True):
            for name, points in lines.items():
                means, errors = zip(*points, strict=True)
                style = numbered(0 if name.startswith("shared-count") else 1).points
                style |= {"linestyle": "--" if name.endswith("virtual clock") else "-"}
                axis.errorbar(range(len(speeds)), means, errors, label=name, capsize=3, **style)
            level_line(axis, next(iter(lines.values()))[0][0], "no slow worker")
            axis.set_xticks(range(len(speeds)), [f"{speed:g}" for speed in speeds])
            axis.set(xlabel="speed of the slow worker (others: 1)", ylabel=what)
            axis.set_ylim(bottom=0)
        legend_of_all(figure, axes, 3)

    write_page(path, title, 4.2, draw)


def rate_text(rate: str) -> str:
    """A link's rate, with its unit, and the kind of steps.

    >>> rate_text("100mbit, steps that wait")
    '100 Mbit/s, steps that wait'
    """
    return rate.replace("gbit", " Gbit/s").replace("mbit", " Mbit/s")
