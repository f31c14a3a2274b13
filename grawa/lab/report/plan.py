"""What the predictions of `grawa plan` are made from, and tables of them."""

from collections.abc import Callable, Mapping, Sequence
from math import ceil

from rich.box import SIMPLE_HEAD
from rich.table import Table

from grawa.lab.planning.predict import (
    VARIANTS,
    Measured,
    Method,
    Prediction,
    Variant,
    predict,
    smallest_tau,
)
from grawa.lab.report.console import bytes_text
from grawa.lab.simulate.network import NO_TIME, HostNetwork

_COLUMNS = 10
"""Values of `sync_every` in a table, at most, so that it fits into 80 characters."""

_MANY = 10_000_000
"""Values of `sync_every` from here on are shortened."""

_NAME_LETTERS = 13
"""Of a method's name at least, such as data_parallel, before other columns are cut short."""


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


def in_percent(share: float) -> str:
    """A share as it was asked for.

    Returns:
        It in percent, with three digits.

    >>> in_percent(0.125), in_percent(0.05)
    ('12.5%', '5%')
    """
    return f"{100 * share:.3g}%"


def plan_lines(measured: Measured, *, real: bool) -> list[str]:
    """What predictions are made from: the training, and the links as options write them.

    Args:
        measured: the measurements.
        real: whether the links were measured, and not given.

    Returns:
        Lines; the last has the options to plan for the same links again, if they were measured.
    """
    network, how = measured.network, " (measured)" if real else ""
    step = 1e3 * measured.step_seconds
    step_text = f"{step:.3g}" if step < 99.5 else f"{step:,.0f}"
    lines = [
        f"{network.num_workers} workers, {measured.parameters:,.0f} parameters "
        f"({bytes_text(measured.model_bytes)}), {step_text} ms a step"
    ]
    if isinstance(network, HostNetwork):
        each = network.num_workers // network.hosts
        inner = "messages take no time" if network.inner == NO_TIME else f"{network.inner}{how}"
        lines += [
            f"between {network.hosts} hosts: {network.link}, {network.topology}{how}",
            f"inside a host of {each} workers: {inner}",
        ]
    else:
        lines.append(f"between workers: {network.link}, {network.topology}{how}")
    return [*lines, f"as options: {network.options}"] if real else lines


def intervals(measured: Measured, most_lost: float) -> tuple[int, ...]:
    """Powers of two for `sync_every`, from 1 to where blocking rounds lose little.

    Args:
        measured: the measurements.
        most_lost: the fraction of the time that is little.

    Returns:
        At most ten, evenly spaced on a logarithmic axis; up to 512 at least.
    """
    least = [smallest_tau(measured, method, Variant(), most_lost) for method in measured.methods]
    doublings = (max([512, *(tau or 1 for tau in least)]) - 1).bit_length()
    stride = ceil(doublings / (_COLUMNS - 1))
    return tuple(2 ** (stride * i) for i in range(ceil(doublings / stride) + 1))


def plan_tables(measured: Measured, most_lost: float) -> list[Table]:
    """The least `sync_every`; then speed and bytes, by `sync_every`."""
    taus, full = intervals(measured, most_lost), measured.full_speed
    tables = [_by_tau("Share of full speed", measured, taus, lambda p: f"{p.speed:.0%}")]
    periodic = [method for method in measured.methods if not method.shares_gradients]
    if periodic:
        tables.insert(0, _smallest(measured, periodic, most_lost))
    if full is not None:
        name = "Samples per second"
        tables.append(_by_tau(name, measured, taus, lambda p: _short(full * p.speed)))
    name = "Bytes sent by a worker in an hour"
    return [*tables, _by_tau(name, measured, taus, lambda p: _short(p.bytes_per_hour))]


def _by_tau(
    title: str, measured: Measured, taus: Sequence[int], show: Callable[[Prediction], str]
) -> Table:
    def row(method: Method) -> list[str]:
        if method.shares_gradients:  # it communicates at every step, so sync_every has no effect
            return [show(predict(measured, method, Variant(), 1)), *[""] * (len(taus) - 1)]
        return [show(predict(measured, method, Variant(), tau)) for tau in taus]

    columns = [str(tau) if tau < 10_000 else _short(tau) for tau in taus]
    return _table(f"{title}, blocking rounds, by sync_every", columns, measured.methods, row)


def _smallest(measured: Measured, methods: Sequence[Method], most_lost: float) -> Table:
    def row(method: Method) -> list[str]:
        taus = [smallest_tau(measured, method, variant, most_lost) for variant in VARIANTS]
        return ["none" if t is None else f"{t:,}" if t < _MANY else _short(t) for t in taus]

    title = f"Smallest sync_every that loses at most {in_percent(most_lost)} of the time"
    return _table(title, [variant.name for variant in VARIANTS], methods, row)


def _table(
    title: str,
    columns: Sequence[str],
    methods: Sequence[Method],
    row: Callable[[Method], Sequence[str]],
) -> Table:
    """A table narrow enough for ten columns of numbers in a terminal of 80 characters."""
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 0), pad_edge=False
    )
    table.add_column("method", overflow="fold", min_width=_NAME_LETTERS)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for cells, same in joined_rows({method.name: row(method) for method in methods}).items():
        table.add_row(", ".join(same), *cells)
    return table


def joined_rows(rows: Mapping[str, Sequence[str]]) -> dict[tuple[str, ...], list[str]]:
    """Joins equal rows.

    Args:
        rows: name -> what is shown of it.

    Returns:
        What is shown -> the names of which it is shown, in the order of the rows.

    >>> joined_rows({"a": ["1", "2"], "b": ["3", "4"], "c": ["1", "2"]})
    {('1', '2'): ['a', 'c'], ('3', '4'): ['b']}
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, shown in rows.items():
        groups.setdefault(tuple(shown), []).append(name)
    return groups
