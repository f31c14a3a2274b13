"""Moving pictures: a figure whose ground stays and whose lines move, as a GIF."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from grawa.files import replacing

_COLOURS = 64  # of a palette that all frames share, which keeps the file small


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
    canvas = FigureCanvasAgg(figure)
    for artist in moving:
        artist.set_animated(True)  # not drawn with the rest
    canvas.draw()
    ground = canvas.copy_from_bbox(figure.bbox)
    for step in steps:
        show(step)
        canvas.restore_region(ground)
        for artist in moving:
            artist.axes.draw_artist(artist)
        size = canvas.get_width_height()
        yield Image.frombuffer("RGBA", size, bytes(canvas.buffer_rgba())).convert("RGB")


def save_gif(
    pictures: Sequence[Image.Image], path: Path, seconds: float, last_seconds: float
) -> None:
    """Writes a GIF that starts again when it has ended, whole or not at all.

    Args:
        pictures: its frames; the palette is the last one's.
        path: of the file.
        seconds: that each is shown.
        last_seconds: that the last is shown.
    """
    palette = pictures[-1].quantize(_COLOURS, dither=Image.Dither.NONE)
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
            optimize=True,
        )
