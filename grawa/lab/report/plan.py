"""Tables and a picture of the predictions of `grawa plan`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from grawa.lab.planning.predict import (
    TAUS,
    VARIANTS,
    Measured,
    Method,
    Prediction,
    Variant,
    predict,
    smallest_tau,
)
from grawa.lab.report.colours import GREY, Style, method_colour
from grawa.lab.report.pictures import pyplot
from grawa.lab.simulate.network import HostNetwork
from grawa.saving.whole import replacing


def _short(value: float) -> str:
    """A number in at most four characters.

    Returns:
        The number, with a letter for thousands, millions and so on.

    >>> [_short(v) for v in (3.14159, 31.4, 999.6, 9_764.0, 28_200.0, 1.25e6, 2.5e8)]
    ['3.1', '31', '1.0k', '9.8k', '28k', '1.2M', '250M']
    """
    for unit in ("", "k", "M", "G"):
        if value < 999.5:
            return f"{value:.1f}{unit}" if value < 9.95 and value else f"{value:.0f}{unit}"
        value /= 1000.0
    return f"{value:.0f}T"


def plan_lines(measured: Measured, *, real: bool) -> list[str]:
    """What predictions are made from: the training, and the links as options write them.

    Args:
        measured: the measurements.
        real: whether the links were measured, and not given.

    Returns:
        Lines; the last has the options to plan for the same links again, if they were measured.
    """
    network, how = measured.network, " (measured)" if real else ""
    lines = [
        f"{network.num_workers} workers, {measured.model_bytes / 4:,.0f} parameters, "
        f"{measured.step_seconds * 1e3:,.2f} ms a step"
    ]
    if isinstance(network, HostNetwork):
        each = network.num_workers // network.hosts
        lines += [
            f"between {network.hosts} hosts: {network.link}, {network.topology}{how}",
            f"inside a host of {each} workers: {network.inner}{how}",
        ]
    else:
        lines.append(f"between workers: {network.link}, {network.topology}{how}")
    return [*lines, f"as options: {network.options}"] if real else lines


def plan_tables(measured: Measured, most_lost: float) -> list[Table]:
    """Samples per second, time lost and bytes, by `sync_every`; and the least `sync_every`."""
    return [
        _by_tau("Samples per second", measured, lambda p: _short(p.samples_per_second)),
        _by_tau("Time lost in rounds", measured, lambda p: f"{p.lost:.0%}"),
        _by_tau("Bytes sent by a worker in an hour", measured, lambda p: _short(p.bytes_per_hour)),
        _smallest(measured, most_lost),
    ]


def _by_tau(title: str, measured: Measured, show: Callable[[Prediction], str]) -> Table:
    table = _table(f"{title}, blocking rounds, by sync_every")
    for tau in TAUS:
        table.add_column(str(tau), justify="right", no_wrap=True)
    for method in measured.methods:
        row = [show(predict(measured, method, Variant(), tau)) for tau in TAUS]
        if method.shares_gradients:  # it communicates at every step, so sync_every has no effect
            row = [row[0], *[""] * (len(TAUS) - 1)]
        table.add_row(method.name, *row)
    return table


def _smallest(measured: Measured, most_lost: float) -> Table:
    table = _table(f"Smallest sync_every that loses at most {most_lost:.0%} (samples per second)")
    for variant in VARIANTS:
        table.add_column(variant.name, justify="right", no_wrap=True)
    for method in measured.methods:
        if not method.shares_gradients:
            table.add_row(
                method.name, *(_at_smallest(measured, method, v, most_lost) for v in VARIANTS)
            )
    return table


def _table(title: str) -> Table:
    """A table narrow enough for ten columns of numbers in a terminal of 80 characters."""
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 0), pad_edge=False
    )
    table.add_column("method", no_wrap=True)
    return table


def _at_smallest(measured: Measured, method: Method, variant: Variant, most_lost: float) -> str:
    tau = smallest_tau(measured, method, variant, most_lost)
    if tau is None:
        return f"> {TAUS[-1]}"
    return f"{tau} ({_short(predict(measured, method, variant, tau).samples_per_second)})"


def plan_json(measured: Measured, most_lost: float) -> dict[str, Any]:
    """All measurements and predictions, as plain values."""
    network = measured.network
    inner = network.inner if isinstance(network, HostNetwork) else None
    return {
        "measured": {
            "step_seconds": measured.step_seconds,
            "samples_per_step": measured.samples,
            "model_bytes": measured.model_bytes,
            "copy_seconds": measured.copy_seconds,
            "workers": network.num_workers,
            "topology": network.topology,
            "bandwidth": network.link.bandwidth,
            "latency": network.link.latency,
            "hosts": network.hosts if isinstance(network, HostNetwork) else None,
            "inner_bandwidth": inner and inner.bandwidth,
            "inner_latency": inner and inner.latency,
            "options": network.options,
        },
        "most_lost": most_lost,
        "methods": [
            {
                **vars(method),
                "variants": {v.name: _variant(measured, method, v, most_lost) for v in VARIANTS},
            }
            for method in measured.methods
        ],
    }


def _variant(
    measured: Measured, method: Method, variant: Variant, most_lost: float
) -> Mapping[str, Any]:
    by_tau = {str(tau): vars(predict(measured, method, variant, tau)) for tau in TAUS}
    return {"smallest": smallest_tau(measured, method, variant, most_lost), "by_sync_every": by_tau}


def plan_picture(measured: Measured, path: Path) -> None:
    """Samples per second by `sync_every`: all methods on the left, one with overlap on the right.

    Args:
        measured: the measurements.
        path: the PNG file.
    """
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11.0, 4.6), sharey=True)
    periodic = [method for method in measured.methods if not method.shares_gradients]
    lines = [(method.name, method, Variant()) for method in measured.methods]
    _draw(left, "blocking rounds", lines, measured)
    if periodic:
        shown = periodic[0]
        _draw(right, shown.name, [(v.name, shown, v) for v in VARIANTS], measured)
    left.set_ylabel("samples per second, all workers")
    figure.tight_layout()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)


def _draw(
    axis: Any, title: str, lines: Sequence[tuple[str, Method, Variant]], measured: Measured
) -> None:
    limit = measured.network.num_workers * measured.samples / measured.step_seconds
    for i, (name, method, variant) in enumerate(lines):
        speeds = [predict(measured, method, variant, tau).samples_per_second for tau in TAUS]
        dashes = VARIANTS.index(variant)
        style = Style(colour=method_colour(method.name), dashes=dashes, mark=i)
        axis.plot(
            TAUS, speeds, label=name, markersize=5, **style.line, marker=style.points["marker"]
        )
    axis.axhline(limit, color=GREY, linestyle="--", linewidth=1, label="no communication")
    axis.set_xscale("log", base=2)
    axis.set_xticks(TAUS, [str(tau) for tau in TAUS])
    axis.set_ylim(0, limit * 1.05)
    axis.set_xlabel("sync_every, local steps between rounds")
    axis.set_title(title)
    axis.legend(fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
