"""Pictures of the benchmarks with a row for each method, the lowest or fastest on top."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common import Spread, ratios
from grawa.lab.report.colours import GREY, numbered
from grawa.lab.report.layout import log_scale, name_rows, reference_line, rows_height
from pictures import colour_of, hosts_text, legend_of_all, rate_text, write_page

_ROW_HEIGHT = 0.25
"""In inches."""


def sync_picture(spreads: Mapping[str, Spread], processes: int, path: Path) -> None:
    """The duration of a round of each method.

    Args:
        spreads: method -> quartiles and median of the ratio to the bare all-reduce.
        processes: number of them.
        path: the PNG file.
    """
    names = sorted(spreads, key=lambda name: spreads[name].median)
    title = f"Time of a round of {processes} processes on one machine"

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        for y, name in enumerate(names):
            low, middle, high = spreads[name]
            interval = [[middle - low], [high - middle]]
            axis.errorbar(middle, y, xerr=interval, marker="o", capsize=3, color=colour_of(name))
        reference_line(axis, 1.0)
        log_scale(axis, "x")
        name_rows(axis, names)
        axis.set_xlabel("time / time of a bare all_reduce of the same bytes (median and quartiles)")

    write_page(path, title, rows_height(names, _ROW_HEIGHT), draw)


def hosts_picture(
    found: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]], path: Path
) -> None:
    """Seconds of a round, in those of a bare all-reduce, and models that a host sends.

    Args:
        found: arrangement -> rate -> method -> "seconds" and "models_sent" of each turn; the first
            method is the bare all-reduce.
        path: the PNG file.
    """
    times = {
        arrangement: {rate: _ratios_to_first(methods) for rate, methods in rates.items()}
        for arrangement, rates in found.items()
    }
    names = _in_order([ratio for rates in times.values() for ratio in rates.values()])
    title = "Time of a round, and copies of the model that a host sends in it"

    def draw(figure: Figure) -> None:
        axes = figure.subplots(2, len(found), sharex="row", sharey=True, squeeze=False)
        for (above, below), arrangement in zip(axes.T, found, strict=True):
            for i, ratio in enumerate(times[arrangement].values()):
                _points(above, ratio, names, _mark(i))
            reference_line(above, 1.0)
            log_scale(above, "x")
            sent = _models_sent(list(found[arrangement].values()))
            _points(below, sent, names, _mark(0))
            reference_line(below, next(iter(sent.values())))
            below.set_xlim(0.0, None)
            for axis, label in ((above, "time / all_reduce"), (below, "models sent")):
                name_rows(axis, names)
                axis.set(title=hosts_text(arrangement).replace(" x ", " x\n"), xlabel=label)
        rates = list(next(iter(found.values())))
        marks = [
            Line2D([], [], color=GREY, linestyle="", marker=_mark(i)) for i in range(len(rates))
        ]
        figure.legend(marks, map(rate_text, rates), ncols=len(rates), loc="outside lower center")

    write_page(path, title, 2 * rows_height(names, _ROW_HEIGHT) + 0.4, draw)


def _mark(rate: int) -> str:
    """The mark of a link's rate, by its number."""
    mark: str = numbered(rate).points["marker"]
    return mark


def _ratios_to_first(methods: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, float]:
    base = next(iter(methods.values()))["seconds"]
    return {name: ratios(own["seconds"], base).median for name, own in methods.items()}


def _models_sent(rates: Sequence[Mapping[str, Mapping[str, Sequence[float]]]]) -> dict[str, float]:
    """The median over all turns at all rates, on which it doesn't depend."""
    return {
        name: median(sent for methods in rates for sent in methods[name]["models_sent"])
        for name in rates[0]
    }


def _in_order(found: Sequence[Mapping[str, float]]) -> list[str]:
    """The names in the order of their mean value, the smallest first.

    >>> _in_order([{"LSGD": 2.0, "EASGD": 1.0}, {"LSGD": 4.0, "DiLoCo": 2.0}])
    ['EASGD', 'DiLoCo', 'LSGD']
    """
    names = dict.fromkeys(name for values in found for name in values)
    return sorted(names, key=lambda n: fmean(values[n] for values in found if n in values))


def _points(axis: Any, values: Mapping[str, float], names: Sequence[str], mark: str) -> None:
    """A mark in the row of each method that has a value."""
    for name, value in values.items():
        axis.plot(value, names.index(name), mark, color=colour_of(name))


def network_picture(found: Mapping[str, Mapping[str, Mapping[str, Any]]], path: Path) -> None:
    """Samples per second of each method, in percent of training without communication.

    Args:
        found: rate -> method -> figures, from `network.py`; the rate may be followed by a comma
            and a kind of steps, which get a row of panels of their own.
        path: the PNG file.
    """
    kinds: dict[str, dict[str, dict[str, float]]] = {}
    for rate, methods in found.items():
        kinds.setdefault(rate.partition(",")[2], {})[rate] = {
            name: 100.0 * one["share_of_limit"]
            for name, one in methods.items()
            if "failed" not in one
        }
    rows = [_in_order(list(shares.values()))[::-1] for shares in kinds.values()]
    heights = [rows_height(names, _ROW_HEIGHT) for names in rows]
    title = "Samples per second, in % of those without communication"

    def draw(figure: Figure) -> None:
        across = max(map(len, kinds.values()))
        grid = figure.add_gridspec(len(rows), across, height_ratios=heights)
        for row, (names, shares) in enumerate(zip(rows, kinds.values(), strict=True)):
            for column, (rate, own) in enumerate(shares.items()):
                axis = figure.add_subplot(grid[row, column])
                _share_bars(axis, own, names)
                axis.set_title(rate_text(rate).replace(", ", ",\n"))
                axis.tick_params(labelleft=column == 0)

    write_page(path, title, sum(heights), draw)


def _share_bars(axis: Any, shares: Mapping[str, float], names: Sequence[str]) -> None:
    """A bar with a number in the row of each method that was measured."""
    for name, share in shares.items():
        y = names.index(name)
        axis.barh(y, share, color=colour_of(name))
        text = f"{share:.0f}" if share >= 9.5 else f"{share:.1f}"
        axis.text(max(share, 103.0) + 3.0, y, text, va="center")
    reference_line(axis, 100.0)
    name_rows(axis, names)
    axis.grid(visible=False, axis="y")
    # So that numbers have room.
    axis.set(xlim=(0, max([140.0, *(1.4 * s for s in shares.values())])), xlabel="%")


def gpu_picture(card: str, parts: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Rounds beside their kernels and the memory's limit, and what an attached step costs.

    Args:
        card: its name.
        parts: part -> item -> what was found, from `gpu.py`.
        path: the PNG file.
    """
    rounds = dict(parts.get("round", {}))
    bandwidth = rounds.pop("copy", {}).get("bytes_per_second")
    steps = {
        f"{model}, {name}": (colour_of(name), ratios(own, one["seconds"]["bare"]))
        for model, one in parts.get("step", {}).items()
        for name, own in one["seconds"].items()
        if name != "bare"
    }
    heights = [rows_height(["", *rounds], 0.5), rows_height(["", *steps], _ROW_HEIGHT)]

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, 1, height_ratios=heights)
        _round_bars(above, rounds, bandwidth)
        for y, (colour, spread) in enumerate(steps.values()):
            low, middle, high = (100.0 * (ratio - 1.0) for ratio in spread)
            interval = [[middle - low], [high - middle]]
            below.errorbar(middle, y, xerr=interval, marker="o", capsize=3, color=colour)
        reference_line(below, 0.5)
        name_rows(below, list(steps) or ["not measured"])
        below.set_xlabel("local step: % longer than the bare step (target 0.5)")
        legend_of_all(figure, [above], 3)

    write_page(path, f"Rounds and attached local steps on {card}", sum(heights), draw)


def _round_bars(axis: Any, rounds: Mapping[str, Any], bandwidth: float | None) -> None:
    """Milliseconds of rounds, of their kernels, and at the limit of the memory."""
    bars = {
        "round": [1e3 * Spread.of(one["seconds"]).median for one in rounds.values()],
        "its kernels": [1e3 * one["activity"]["kernel_seconds"] for one in rounds.values()],
    }
    if bandwidth:
        limits = [1e3 * one["passes"] * one["bytes"] / bandwidth for one in rounds.values()]
        bars["limit of the memory"] = limits
    methods = [colour_of(name) for name in rounds]
    for i, (label, values) in enumerate(bars.items()):
        at = [place + 0.27 * (i - 1) for place in range(len(values))]
        colours = [GREY] * len(values) if i == 2 else methods
        axis.barh(at, values, 0.27, label=label, color=colours, alpha=0.5 if i == 1 else 1.0)
    name_rows(axis, list(rounds) or ["not measured"])
    axis.set(xlabel="ms of a round", ylabel="method, hosted workers")
