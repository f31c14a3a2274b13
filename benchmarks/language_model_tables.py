"""The tables of `language_model.py`."""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from common import show
from grawa.lab.report.tables import Unit
from grawa.lab.report.verdicts import p_text
from language_model_config import Config
from language_model_results import Row, Where, names_of, rows_of, weights_by_kind
from language_model_workers import KINDS
from samples import Sample

_UNIT = Unit("bits per byte")


def tables(config: Config, results: Mapping[str, Any]) -> None:
    """Prints rates and ends of runs for tuning, and errors, differences and weights."""
    _tuning(config, results["tuning"])
    runs = [run for row in results["rows"] for run in row["runs"]]
    rows = rows_of(config, [*results["tuning"], *runs])
    for where, group in groupby(rows, key=lambda row: row.where):
        own = list(group)
        _ends(config, where, own)
        if any(set(run["kinds"]) - {"clean"} for row in own for run in row.runs):
            _weights(where, own)


def _title(what: str, where: Where) -> str:
    quality, every = where
    return f"{what}, {quality}, a round every {every} steps"


def _tuning(config: Config, samples: Sequence[Sample]) -> None:
    rates = sorted({sample["lr"] for sample in samples})
    for quality, every in dict.fromkeys((s["quality"], s["sync_every"]) for s in samples):
        cells = []
        for method, name in names_of(config).items():
            own = [
                s for s in samples
                if (s["quality"], s["sync_every"], s["method"]) == (quality, every, method)
            ]  # fmt: skip
            if own:
                cells.append([name, *(_tuned([s for s in own if s["lr"] == r]) for r in rates)])
        show(
            _title("Tuning: bits per byte by learning rate", (quality, every)),
            ["method", *(f"{rate:g}" for rate in rates)],
            cells,
        )


def _tuned(samples: Sequence[Sample]) -> str:
    ends = [sample["final"] for sample in samples]
    if not ends:
        return "-"
    return "diverged" if None in ends else f"{sum(ends) / len(ends):.4f}"


def _ends(config: Config, where: Where, rows: Sequence[Row]) -> None:
    minus = f"minus {config.baseline}"
    columns = ["method", "rate", "mean ± SE", "runs", minus, "95% CI", "p, Holm", "s"]
    show(_title("Bits per byte of the consensus", where), columns, [_end(row) for row in rows])
    if any(row.difference for row in rows):
        print("Differences are paired by seed; Holm's p is corrected for all comparisons.")


def _end(row: Row) -> list[str]:
    mean, apart = row.mean, row.difference
    diverged = len(row.runs) - len(row.ends)
    return [
        row.name,
        f"{row.lr:g}",
        "-" if mean is None else _UNIT.mean(mean),
        f"{len(row.ends)}" + (f", {diverged} diverged" if diverged else ""),
        "-" if apart is None else _UNIT.change(apart),
        "-" if apart is None or apart.number < 2 else _UNIT.interval(apart),
        p_text(row.corrected),
        f"{sum(run['seconds'] for run in row.runs) / len(row.runs):.0f}",
    ]


def _weights(where: Where, rows: Sequence[Row]) -> None:
    seen = [kind for kind in KINDS if any(kind in run["kinds"] for r in rows for run in r.runs)]
    cells = []
    for row in rows:
        found = weights_by_kind(row)
        if all(math.isnan(weight) and not out for weight, out in found.values()):
            continue  # it has no weights
        cells.append([
            row.name,
            *(_weight(*found[kind]) if kind in found else "-" for kind in seen),
        ])
    show(_title("Mean weight, in parts of an equal one", where), ["method", *seen], cells)
    if cells:
        print("In brackets: share of the rounds in which the guard left the worker out, if any.")


def _weight(weight: float, out: float) -> str:
    return ("-" if math.isnan(weight) else f"{weight:.2f}") + (f" ({out:.0%})" if out else "")
