"""Animations as GIF files: a figure with a fixed background and moving lines."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageColor

from grawa.saving.whole import replacing

_SHARES = (0.25, 0.4, 0.55, 0.7, 0.85, 1.0)  # of a colour mixed with white, for smooth edges


def frames(
    figure: Figure, moving: Sequence[Any], show: Callable[[int], object], steps: Sequence[int]
) -> Iterator[Image.Image]:
    """Pictures of a figure at several steps; whatever does not move is drawn only once.

    Args:
        figure: the figure, with its final layout.
        moving: the parts that change, from the bottom to the top layer.
        show: updates them for a step.
        steps: the steps.

    Yields:
        A picture for each step.
    """
    canvas: Any = FigureCanvasAgg(figure)
    for artist in moving:
        artist.set_animated(True)  # not drawn with the rest
    canvas.draw()
    ground = canvas.copy_from_bbox(figure.bbox)
    for step in steps:
        show(step)
        canvas.restore_region(ground)
        for artist in moving:
            artist.axes.draw_artist(artist)
        yield Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def save_gif(
    pictures: Sequence[Image.Image],
    path: Path,
    colours: Sequence[str],
    *,
    seconds: float,
    last_seconds: float,
) -> None:
    """Writes a GIF that repeats, completely or not at all.

    Args:
        pictures: its frames.
        path: the file.
        colours: the colours in them, beside greys.
        seconds: for which each frame is shown.
        last_seconds: for which the last frame is shown.
    """
    palette = _palette(colours)
    first, *others = [p.quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures]
    durations = [round(seconds * 1000)] * len(others) + [round(last_seconds * 1000)]
    with replacing(path) as temporary:
        first.save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=others,
            duration=durations,
            loop=0,
            optimize=True,  # a frame stores only what differs from the one before
        )


def _palette(colours: Sequence[str]) -> Image.Image:
    """The palette of all frames: greys, and each colour in several mixtures with white."""
    greys = [(level, level, level) for level in range(15, 256, 12)]
    mixed = [
        tuple(round(255 + share * (channel - 255)) for channel in ImageColor.getrgb(colour)[:3])
        for colour in colours
        for share in _SHARES
    ]
    found = Image.new("P", (1, 1))
    found.putpalette([channel for colour in (*greys, *mixed) for channel in colour])
    return found
