"""What `grawa flatness` prints."""

import math

from rich.box import SIMPLE_HEAD
from rich.table import Table

from grawa.experiments.flatness import RunFlatness
from grawa.flatness import Estimate
from grawa.report.console import metric_text


def flatness_tables(found: RunFlatness, metric: str) -> list[Table]:
    """Two tables with a row for each model: errors and slopes, curvature and valley.

    Args:
        found: what was measured.
        metric: the task's, of which "train" and "test" are the values.

    Returns:
        The tables.
    """
    radii = list(next(iter(found.models.values())).sharpness)
    rises = [f"rise at {radius:g}" for radius in radii]
    slopes = _table("model", "train", "test", "loss", "gradient", *rises)
    for name, one in found.models.items():
        errors = [metric_text({"metric": metric, "error": e}) for e in found.errors[name]]
        numbers = [one.loss, one.gradient_norm, *one.sharpness.values()]
        slopes.add_row(name, *errors, *map(_number, numbers))
    curves = _table("model", "eigenvalue", "trace", "trace / loss", "distance", "border")
    for name, one in found.models.items():
        top = one.eigenvalues[0] if one.eigenvalues else None
        estimates = [_estimate(e) for e in (top, one.trace, one.trace_over_loss)]
        curves.add_row(name, *estimates, *_walk(found, name))
    return [slopes, curves]


def _table(first: str, *numbers: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for title in numbers:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _walk(found: RunFlatness, name: str) -> list[str]:
    """How far a worker is, and the border beyond it."""
    valley, workers = found.valley, list(found.models)[1:]
    if valley is None or name not in workers:
        return ["", ""]
    at = workers.index(name)
    return [_number(valley.worker_distances[at]), _number(valley.border_distances[at])]


def valley_text(found: RunFlatness) -> str:
    """The worker-valley width in a line, or why there is none."""
    valley = found.valley
    if valley is None:
        return f"no worker valley: {found.no_valley}"
    return (
        f"inverse mean valley {_number(valley.inverse_mean)}; at the border the loss is "
        f"{valley.kappa:g} times the consensus's"
    )


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else str(value)


def _estimate(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    if not estimate.standard_error > 0.0:  # exact, or not known
        return _number(estimate.value)
    return f"{_number(estimate.value)} ± {estimate.standard_error:.1g}"
