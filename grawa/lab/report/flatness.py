"""Tables of what `grawa flatness` measured, for the terminal and the run's page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grawa.errors import UserError
from grawa.lab.experiments.flatness import FLATNESS_SCHEMA
from grawa.lab.experiments.flatness_shape import RUN_SHAPE
from grawa.lab.records import read_record
from grawa.lab.report.tables import Cell, Table, Unit


def run_flatness(folder: Path) -> tuple[list[Table], list[str]]:
    """Tables of the flatness around a run's consensus and workers.

    Args:
        folder: the run's folder.

    Returns:
        The tables, none if flatness was not measured; and a notice if the file can't be read.
    """
    path = folder / "flatness.json"
    if not path.exists():
        return [], []
    try:
        found = read_record(path, _of_this_version)
    except UserError as error:
        return [], [f"Flatness is left out: {error}; run `grawa flatness` again."]
    return flatness_tables(found), []


def _of_this_version(value: object, name: str) -> str | None:
    if isinstance(value, dict) and value.get("schema") != FLATNESS_SCHEMA:
        return f"it is from another version of grawa, whose schema is not {FLATNESS_SCHEMA}"
    return RUN_SHAPE(value, name)


def flatness_tables(found: Mapping[str, Any]) -> list[Table]:
    """Two tables with a row for each model, and one of the directions in which workers differ.

    Args:
        found: the content of `flatness.json`.

    Returns:
        Errors and slopes; curvature and valley; the disagreement, if it was measured.
    """
    return [_slopes(found), _curves(found), *_disagreement(found)]


def _slopes(found: Mapping[str, Any]) -> Table:
    unit, models = Unit(found["metric"]), found["models"]
    radii = list(next(iter(models.values()))["sharpness"])
    columns = ["train", "test", "loss", "gradient norm", *(f"rise at {radius}" for radius in radii)]
    rows = []
    for name, one in models.items():
        errors = [_error(one[name], unit) for name in ("train_error", "test_error")]
        numbers = [one["loss"], one["gradient_norm"], *one["sharpness"].values()]
        rows.append([Cell(text=name), *errors, *map(_number, numbers)])
    return Table(
        name="slopes",
        title=f"Loss around each model, and {unit.label}",
        columns=_columns(columns),
        rows=rows,
        note=(
            f"The loss over {found['samples']:,} of {found['of_samples']:,} training samples, "
            f"the train column over {found['gap_samples']:,}; {found['parameters']:,} parameters."
        ),
    )


def _curves(found: Mapping[str, Any]) -> Table:
    walks, rows = _walks(found), []
    for name, one in found["models"].items():
        top = one["eigenvalues"][0] if one["eigenvalues"] else None
        estimates = [top, one["trace"], one["trace_over_loss"]]
        walk = walks.get(name, [_number(None)] * 2)
        rows.append([Cell(text=name), *map(_estimate, estimates), *walk])
    return Table(
        name="curvature",
        title="Curvature, and distances from the consensus",
        columns=_columns(["largest eigenvalue", "trace", "trace / loss", "distance", "border"]),
        rows=rows,
        note=_valley(found) + _no_disagreement(found),
    )


def _walks(found: Mapping[str, Any]) -> dict[str, list[Cell]]:
    """The distances to each worker, and beyond it to the valley's border; empty without valley."""
    through = found["valley"]
    if through is None:
        return {}
    _, *workers = found["models"]
    ways = zip(through["worker_distances"], through["border_distances"], strict=True)
    return {
        worker: [_number(away), Cell(text="inf") if border is None else _number(border)]
        for worker, (away, border) in zip(workers, ways, strict=True)
    }


def _columns(numbers: list[str]) -> list[tuple[str, bool]]:
    return [("model", False), *((name, True) for name in numbers)]


def _error(value: float | None, unit: Unit) -> Cell:
    if value is None:
        return Cell(text="-")
    return Cell(text=unit.text(value), value=unit.scale * value)


def _number(value: float | None) -> Cell:
    return Cell(text="-" if value is None else f"{value:.3g}", value=value)


def _estimate(estimate: Mapping[str, float | None] | None) -> Cell:
    """A number, and its standard error if that is known and not zero."""
    if estimate is None:
        return Cell(text="-")
    cell, error = _number(estimate["value"]), estimate["standard_error"]
    if not error:
        return cell
    return Cell(text=f"{cell.text} ± {error:.1g}", value=cell.value, error=error)


def _valley(found: Mapping[str, Any]) -> str:
    """A sentence with the width of the workers' valley, or why there is none."""
    through = found["valley"]
    if through is None:
        return f"No worker valley: {found['no_valley']}."
    return (
        f"Distances to each worker, and in the same direction to the border, where the loss is "
        f"{through['kappa']:g} times the consensus's. Inverse mean valley "
        f"{_number(through['inverse_mean']).text}."
    )


def _no_disagreement(found: Mapping[str, Any]) -> str:
    why = found.get("no_disagreement")
    return f" No table of the directions in which workers differ: {why}." if why else ""


def _disagreement(found: Mapping[str, Any]) -> list[Table]:
    """How much of steep directions lies in the span of the workers' gaps."""
    spectrum = found.get("disagreement")
    if spectrum is None:
        return []
    each, chance = spectrum["eigenvector_shares"], spectrum["chance"]
    shares = {"gradient": spectrum["gradient_share"]}
    if each:
        shares[f"gradient in eigenvectors 1 to {len(each)}"] = spectrum["dominant_share"]
    shares |= {f"eigenvector {j}": share for j, share in enumerate(each, start=1)}
    singular = spectrum["singular_values"]
    return [
        Table(
            name="disagreement",
            title="Directions in which the workers differ",
            columns=[("direction", False), ("share in the gaps", True), ("over chance", True)],
            rows=[
                [Cell(text=name), _number(share), _number(share / chance if share else share)]
                for name, share in shares.items()
            ],
            note=(
                f"{spectrum['gaps']:,} gaps x_i - mean(x) of {spectrum['rounds']:,} rounds span "
                f"{len(singular):,} dimensions (effective rank {spectrum['effective_rank']:.1f}); "
                f"their singular values go from {singular[0]:.3g} to {singular[-1]:.3g}. A share "
                "is of the squared length; in a random subspace of as many dimensions it would be "
                f"{chance:.2g}. Gradient and Hessian are the consensus's."
            ),
        )
    ]
