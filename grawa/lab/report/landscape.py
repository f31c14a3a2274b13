"""Pictures of the loss around a consensus and its workers, and of its flatness."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from grawa.flatness import Estimate, Flatness, Line, Plane
from grawa.lab.report.colours import GREY, PALETTE, numbered
from grawa.lab.report.pictures import pyplot, save

_LEVELS = 14


def line_picture(lines: Mapping[str, Line], path: Path, border: float | None = None) -> None:
    """The loss along lines from the consensus, one for each worker.

    Args:
        lines: name -> line.
        path: the PNG or SVG file.
        border: the loss at the valley's border; `None` to leave it out.
    """
    figure, axis = pyplot().subplots(figsize=(6.4, 4.4))
    for i, (name, line) in enumerate(lines.items()):
        style = numbered(i)
        at = (line.shares * line.distance).numpy()
        axis.plot(at, line.losses.numpy(), linewidth=1.8, **style.line)
        end = np.interp(line.distance, at, line.losses.numpy())
        axis.plot(line.distance, end, linestyle="", markersize=8, label=name, **style.points)
    axis.axvline(0.0, color=GREY, linestyle="--", linewidth=1)
    if border is not None:
        axis.axhline(border, color=GREY, linestyle=":", linewidth=1.5, label="border of the valley")
    _label(axis, "distance from the consensus (at 0), toward the worker (L2)", "training loss")
    axis.set_title("Training loss from the consensus toward each worker", fontsize=12)
    losses = [line.losses for line in lines.values()]
    low, high = min(float(one.min()) for one in losses), max(float(one.max()) for one in losses)
    if 0.0 < 10.0 * low < high:
        axis.set_yscale("log")
    axis.legend(fontsize=11, frameon=False)
    save(figure, path)


def plane_picture(plane: Plane, path: Path) -> None:
    """Contours of the loss on the plane through consensus and workers.

    Args:
        plane: the losses.
        path: the PNG or SVG file.
    """
    figure, axis = pyplot().subplots(figsize=(6.4, 5.2))
    from matplotlib.patheffects import withStroke

    losses = plane.losses.numpy()
    levels, norm = _levels(losses)
    x, y = plane.x.numpy(), plane.y.numpy()
    filled = axis.contourf(x, y, losses, levels=levels, norm=norm, cmap="cividis")
    axis.contour(x, y, losses, levels=levels, colors="white", linewidths=0.5)
    bar = figure.colorbar(filled, ax=axis, format="%.3g")
    bar.set_label("training loss", fontsize=12)
    for worker, (right, up) in enumerate(plane.workers.tolist()):
        axis.plot(right, up, "o", color="#E69F00", markeredgecolor="black", markersize=10)
        axis.annotate(
            str(worker),
            (right, up),
            xytext=(8 if right >= 0.0 else -16, 8 if up >= 0.0 else -17),
            textcoords="offset points",
            color="white",
            fontsize=13,
            fontweight="bold",
            path_effects=[withStroke(linewidth=2.5, foreground="black")],
        )
    axis.plot(0.0, 0.0, "*", color="white", markeredgecolor="black", markersize=18)
    _label(axis, "first principal direction (L2)", "second principal direction (L2)")
    axis.set_title(
        f"star: consensus; circles: workers; {plane.share:.0%} of their squared distances\nis in "
        f"this plane (largest distance from it: {float(plane.off_plane.max()):.2g})",
        fontsize=11,
    )
    save(figure, path)


def _levels(losses: Any) -> tuple[Any, Any]:
    """Contour levels: evenly spaced ratios if all losses are positive, otherwise evenly spaced."""
    from matplotlib.colors import LogNorm, Normalize

    low, high = float(losses.min()), float(losses.max())
    if low > 0.0 and high > 3.0 * low:
        return np.geomspace(low, high, _LEVELS), LogNorm(low, high)
    return np.linspace(low, high or 1.0, _LEVELS), Normalize(low, high)


def bars_picture(models: Mapping[str, Flatness], path: Path) -> None:
    """One panel of bars for each measure, with a bar for each model and its standard error.

    Args:
        models: name -> measurements.
        path: the PNG or SVG file.
    """
    panels = _panels(models)
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = pyplot().subplots(
        rows,
        columns,
        figsize=(3.5 * columns, 0.9 + (0.8 + 0.28 * len(models)) * rows),
        sharey=True,
        squeeze=False,
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    names = list(models)
    colours = [PALETTE[1] if i == 0 else PALETTE[0] for i in range(len(names))]
    for axis, (title, estimates) in zip(axes.flat, panels.items(), strict=False):
        values = [estimate.value for estimate in estimates]
        errors = [e.standard_error if e.standard_error > 0.0 else np.nan for e in estimates]
        axis.barh(names, values, xerr=errors, color=colours, capsize=3, ecolor="black")
        axis.set_xlabel(title, fontsize=11)
        axis.locator_params(axis="x", nbins=4)
        axis.spines[["top", "right"]].set_visible(False)
        axis.axvline(0.0, color="black", linewidth=0.8)
    figure.suptitle("Flatness of the consensus and of each worker", fontsize=12)
    for axis in axes[:, 0]:
        axis.invert_yaxis() if not axis.yaxis_inverted() else None
    figure.tight_layout()
    save(figure, path)


def _panels(models: Mapping[str, Flatness]) -> dict[str, list[Estimate]]:
    """Title -> one estimate for each model."""
    found = list(models.values())
    panels = {
        "training loss": [Estimate(one.loss, 0.0) for one in found],
        "gradient norm": [Estimate(one.gradient_norm, 0.0) for one in found],
    }
    for radius in found[0].sharpness:
        title = f"rise of the loss, radius {radius:g}"
        panels[title] = [Estimate(one.sharpness[radius], 0.0) for one in found]
    if all(one.eigenvalues and one.trace for one in found):
        panels["largest eigenvalue"] = [one.eigenvalues[0] for one in found if one.eigenvalues]
        panels["trace of the Hessian"] = [one.trace for one in found if one.trace]
        ratios = [one.trace_over_loss for one in found]
        panels["trace / loss"] = [Estimate(0.0, 0.0) if r is None else r for r in ratios]
    return panels


def _label(axis: Any, x: str, y: str) -> None:
    axis.set_xlabel(x, fontsize=12)
    axis.set_ylabel(y, fontsize=12)
    axis.tick_params(labelsize=11)
    axis.spines[["top", "right"]].set_visible(False)
