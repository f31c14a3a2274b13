"""Moving pictures: a figure whose ground stays and whose lines move, as a GIF."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageColor

from grawa.lab.files import replacing

_SHARES = (0.25, 0.4, 0.55, 0.7, 0.85, 1.0)  # of a colour in white, where its edges are smooth


def frames(
    figure: Figure, moving: Sequence[Any], show: Callable[[int], object], steps: Sequence[int]
) -> Iterator[Image.Image]:
    """Pictures of a figure at some steps; what doesn't move is drawn once.

    Args:
        figure: with all that moves in it, laid out.
        moving: what changes, from the lowest to the highest.
        show: changes it to what it is at a step.
        steps: at which to look.

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
    """Writes a GIF that starts again when it has ended, whole or not at all.

    Args:
        pictures: its frames.
        path: of the file.
        colours: that are in them, beside greys.
        seconds: that each is shown.
        last_seconds: that the last is shown.
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
            optimize=True,  # a frame holds only what differs from the one before
        )


def _palette(colours: Sequence[str]) -> Image.Image:
    """Greys, and colours in steps from pale to full, which all frames share."""
    greys = [(level, level, level) for level in range(15, 256, 12)]
    mixed = [
        tuple(round(255 + share * (channel - 255)) for channel in ImageColor.getrgb(colour)[:3])
        for colour in colours
        for share in _SHARES
    ]
    found = Image.new("P", (1, 1))
    found.putpalette([channel for colour in (*greys, *mixed) for channel in colour])
    return found
