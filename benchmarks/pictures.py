"""Pictures of the benchmarks, for the README."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

from grawa.files import replacing

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#7F7F7F"
"""Of Okabe and Ito's palette, which colour-blind people can tell apart."""


def network_picture(found: Mapping[str, Mapping[str, Mapping[str, Any]]], path: Path) -> None:
    """Samples per second of each method, as a share of training without communication.

    Args:
        found: rate -> method -> figures, as `network.py` has them.
        path: of the PNG.
    """
    figure, axes = plt.subplots(1, len(found), sharey=True, figsize=(3.6 * len(found) + 1.6, 5.6))
    panels = axes if len(found) > 1 else [axes]
    for axis, (rate, methods) in zip(panels, found.items(), strict=True):
        names = [name for name in methods if "failed" not in methods[name]]
        shares = [100 * methods[name]["share_of_limit"] for name in names]
        axis.barh(names, shares, color=[_colour(name) for name in names])
        for y, share in enumerate(shares):
            axis.text(
                min(share, 100) + 1,
                y,
                f"{share:.0f}" if share >= 9.5 else f"{share:.1f}",
                va="center",
            )
        axis.axvline(100, color=GREY, linestyle="--", linewidth=1)
        axis.set(title=_rate_text(rate), xlim=(0, 118), xlabel="samples/s, % of the limit")
        axis.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    figure.tight_layout()
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Writes a picture whole or not at all."""
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
    return rate.replace("gbit", " Gbit/s").replace("mbit", " Mbit/s")
