"""What `grawa flatness` has left in a run's folder, on the run's page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grawa.experiments.flatness import FLATNESS_SCHEMA
from grawa.files import read_json
from grawa.report.tables import Cell, Table, Unit


def run_flatness(folder: Path) -> tuple[list[Table], list[str]]:
    """What was measured around a run's consensus and workers.

    Args:
        folder: of the run.

    Returns:
        A table, if there is something to show; and a notice if it can't be read.
    """
    path = folder / "flatness.json"
    if not path.is_file():
        return [], []
    found = read_json(path)
    if found.get("schema") != FLATNESS_SCHEMA:
        notice = (
            "flatness.json is broken or of another version of grawa: run `grawa flatness` again."
        )
        return [], [notice]
    return [_table(found)], []


def _table(found: Mapping[str, Any]) -> Table:
    unit, models = Unit(found["metric"]), found["models"]
    radii = list(next(iter(models.values()))["sharpness"])
    columns = ["train", "test", "loss", "gradient norm", *(f"rise at {radius}" for radius in radii)]
    columns += ["largest eigenvalue", "trace", "trace / loss"]
    return Table(
        title=f"Flatness, and {unit.label} on training and test samples",
        columns=[("model", False), *((name, True) for name in columns)],
        rows=[[Cell(text=name), *_cells(one, unit)] for name, one in models.items()],
        note=f"Over {found['samples']:,} training samples. {_valley(found)}",
    )


def _cells(one: Mapping[str, Any], unit: Unit) -> list[Cell]:
    errors = [Cell(text=unit.text(one[k]), value=one[k]) for k in ("train_error", "test_error")]
    numbers = [one["loss"], one["gradient_norm"], *one["sharpness"].values()]
    top = one["eigenvalues"][0] if one["eigenvalues"] else None
    estimates = [top, one["trace"], one["trace_over_loss"]]
    return [*errors, *map(_number, numbers), *map(_estimate, estimates)]


def _number(value: float | None) -> Cell:
    return Cell(text="-" if value is None else f"{value:.3g}", value=value)


def _estimate(estimate: Mapping[str, float | None] | None) -> Cell:
    """A number and its standard error, where that is known and not zero."""
    if estimate is None:
        return Cell(text="-")
    cell, error = _number(estimate["value"]), estimate["standard_error"]
    return Cell(text=f"{cell.text} ± {error:.1g}", value=cell.value) if error else cell


def _valley(found: Mapping[str, Any]) -> str:
    through = found["valley"]
    if through is None:
        return f"No worker valley: {found['no_valley']}."
    return (
        f"Inverse mean valley {_number(through['inverse_mean']).text}: at its border the loss is "
        f"{through['kappa']:g} times the consensus's."
    )
