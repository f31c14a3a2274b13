"""What pictures of single commands share: pyplot, and how a file is written."""

from pathlib import Path
from typing import Any

from grawa.errors import UserError
from grawa.saving.whole import replacing


def pyplot() -> Any:
    """Matplotlib's pyplot, set up to work without a screen."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def save(figure: Any, path: Path) -> None:
    """Writes a picture, completely or not at all, and closes the figure.

    Args:
        figure: a matplotlib figure.
        path: the file, ending in .png or .svg.

    Raises:
        UserError: if it has another suffix.
    """
    if path.suffix not in (".png", ".svg"):
        raise UserError(f"a picture's name must end in .png or .svg, got {path}")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=160, format=path.suffix[1:], bbox_inches="tight")
    pyplot().close(figure)
