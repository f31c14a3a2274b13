"""Photographs in one folder for each class, whose files are read when needed."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from grawa.errors import UserError
from grawa.lab.files import opened

_ENDINGS = (".jpeg", ".jpg")
_MOST_THREADS = 8
_MAGIC = b"\xff\xd8\xff"


def list_images(folder: Path) -> tuple[list[str], list[str]]:
    """The photographs in a folder of class folders, ordered by name, without hidden files.

    Args:
        folder: contains a folder for each class.

    Returns:
        The classes, and the files as `class/name`.

    Raises:
        UserError: if there are none.
    """
    try:
        classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        files = [
            f"{name}/{file}"
            for name in classes
            for file in sorted(os.listdir(folder / name))
            if file.lower().endswith(_ENDINGS) and not file.startswith(".")
        ]
    except OSError as error:
        raise UserError(f"{folder} can't be read: {error.strerror}") from None
    if not files:
        raise UserError(f"{folder} must have a folder of JPEG files for each class, but has none")
    return classes, files


def check_begins(folder: Path, names: Sequence[str]) -> None:
    """Refuses files that are no JPEG files, by their first bytes, before anything is trained.

    Args:
        folder: the folder to which the names are relative.
        names: the files.

    Raises:
        UserError: naming the first one that is none.
    """
    with ThreadPoolExecutor(_MOST_THREADS) as pool:
        begins = pool.map(_begins_well, [folder / name for name in names])
        for name, well in zip(names, begins, strict=True):
            if not well:
                raise UserError(
                    f"{folder / name} is not a JPEG file: remove it, or put it back from a copy"
                )


def _begins_well(path: Path) -> bool:
    with opened(path) as file:
        return file.read(len(_MAGIC)) == _MAGIC


def as_rows(names: list[str]) -> Tensor:
    """Names as rows of bytes, padded with zeros: (n, longest)."""
    encoded = np.array([os.fsencode(name) for name in names])
    return torch.from_numpy(encoded.view(np.uint8).reshape(len(names), -1).copy())


def as_names(rows: Tensor) -> list[str]:
    """The names in rows that `as_rows` returned."""
    return [os.fsdecode(bytes(row).rstrip(b"\0")) for row in rows.cpu().numpy()]


def read_images(folder: Path, names: list[str], size: int) -> Tensor:
    """Reads photographs, and scales the largest square in the middle of each to a size.

    Args:
        folder: the folder to which the names are relative.
        names: B files.
        size: width of the squares.

    Returns:
        Bytes, (B, 3, size, size).
    """
    threads = max(1, min(_MOST_THREADS, os.cpu_count() or 1))
    with ThreadPoolExecutor(threads) as pool:
        images = list(pool.map(partial(_read_image, size=size), [folder / name for name in names]))
    return torch.stack(images)


def _read_image(path: Path, size: int) -> Tensor:
    try:
        with opened(path) as file, Image.open(file) as image:
            image.draft("RGB", (size, size))  # decodes large files at a reduced size
            pixels = _square(image.convert("RGB"), size)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not a complete picture: {error}") from None
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)


def _square(image: Image.Image, size: int) -> Image.Image:
    """The largest square in the middle, scaled."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BILINEAR, box)
