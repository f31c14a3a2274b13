"""Reads the published files of CIFAR-10 and CIFAR-100: pickled or binary, in archives or not."""

import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grawa.errors import UserError
from grawa.lab.files import is_file, is_folder, opened, read_bytes
from grawa.lab.tasks.plain_pickle import load_plain

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32

_MOST_BYTES = 2 * 10**9
"""Of an archive's content, and of a file: ten times those of the whole data set."""

Images = tuple[Tensor, Tensor]
"""Bytes, (n, 3, 32, 32), and labels, (n,)."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One version in which a data set is published.

    Args:
        folder: the folder in the archive.
        archive: the archive's usual name.
        train: files of training images.
        test: files of test images.
        decode: converts a file's bytes to images and labels; raises `ValueError`.
    """

    folder: str
    archive: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    decode: Callable[[bytes], Images]

    @property
    def files(self) -> tuple[str, ...]:
        """All files that must exist."""
        return (*self.train, *self.test)


def read(path: Path, layouts: Sequence[Layout], what: str) -> tuple[Images, Images]:
    """Reads the training and test images of a data set.

    Args:
        path: the folder with its files, or the archive, or a folder that contains one of these.
        layouts: the published versions.
        what: the data set's name.

    Returns:
        Training images and labels, test images and labels.

    Raises:
        UserError: if no version is found, or a file is missing or broken.
    """
    if not (is_file(path) or is_folder(path)):
        raise UserError(f"{path} does not exist: give the folder or the archive of {what} as data")
    for place in _places(path, layouts):
        try:
            files = _contents(place, layouts)
        except (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError) as error:
            cause = next(iter(str(error).splitlines()), type(error).__name__).rstrip(":")
            raise UserError(
                f"{place} can't be read to its end ({cause}); download {what} again"
            ) from None
        for layout in layouts:
            if any(name in files for name in layout.train):
                return _decoded(place, files, layout)
    forms = ", ".join(f"{layout.folder} or {layout.archive}" for layout in layouts)
    raise UserError(f"{path} does not contain {what}, which is {forms}")


def _places(path: Path, layouts: Sequence[Layout]) -> Iterator[Path]:
    """The places to look for the data: the path itself, and usual names in it."""
    yield path
    for layout in layouts:
        for name in (layout.folder, layout.archive):
            if (path / name).exists():
                yield path / name


def _contents(place: Path, layouts: Sequence[Layout]) -> dict[str, bytes]:
    """The data set's files in a folder or an archive, name -> content."""
    wanted = {name for layout in layouts for name in layout.files}
    if place.is_dir():
        found = [place / name for name in sorted(wanted)]
        return {path.name: read_bytes(path, _MOST_BYTES) for path in found if path.is_file()}
    files, total = {}, 0
    with opened(place) as file, tarfile.open(fileobj=file) as archive:
        for member in archive:
            total += member.size
            if total > _MOST_BYTES:
                raise UserError(
                    f"{place} holds more than {_MOST_BYTES / 1e9:.0f} GB, which is no such data set"
                )
            name = PurePosixPath(member.name).name
            if name in wanted and member.isfile():
                content = archive.extractfile(member)
                assert content is not None, "a regular file has content"
                files[name] = content.read()
    return files


def _decoded(place: Path, files: Mapping[str, bytes], layout: Layout) -> tuple[Images, Images]:
    missing = [name for name in layout.files if name not in files]
    if missing:
        raise UserError(
            f"{place} lacks {', '.join(missing)}; it must contain {', '.join(layout.files)}"
        )
    parts: dict[str, Images] = {}
    for name in layout.files:
        try:
            parts[name] = layout.decode(files[name])
        except ValueError as error:
            raise UserError(f"{place}: {name} is incomplete or invalid: {error}") from None
    counts = {name: len(parts[name][0]) for name in layout.train}
    fewest = min(counts, key=counts.__getitem__)
    if counts[fewest] != max(counts.values()):
        raise UserError(
            f"{place}: {fewest} is incomplete: it has {counts[fewest]:,} images, and others have "
            f"{max(counts.values()):,}"
        )
    return _joined(parts, layout.train), _joined(parts, layout.test)


def _joined(parts: Mapping[str, Images], names: Sequence[str]) -> Images:
    images, labels = zip(*(parts[name] for name in names), strict=True)
    return torch.cat(images), torch.cat(labels)


def pickled(labels_key: bytes, classes: int) -> Callable[[bytes], Images]:
    """Decodes the Python version: a dictionary with `data`, (n, 3072), and lists of labels."""

    def decode(raw: bytes) -> Images:
        found: Any = load_plain(raw)
        if not isinstance(found, dict) or b"data" not in found or labels_key not in found:
            raise ValueError(f"it has no dictionary with 'data' and {labels_key.decode()!r}")
        pixels, labels = found[b"data"], found[labels_key]
        if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != _PIXELS:
            raise ValueError(f"its data are not rows of {_PIXELS} bytes")
        if not isinstance(labels, list) or not all(type(label) is int for label in labels):
            raise ValueError("its labels are not a list of whole numbers")
        return _checked(pixels, np.asarray(labels, dtype=np.int64), classes)

    return decode


def binary(labels: int, classes: int) -> Callable[[bytes], Images]:
    """Decodes the binary version: records of labels, of which the last counts, and 3072 bytes."""

    def decode(raw: bytes) -> Images:
        if not raw or len(raw) % (labels + _PIXELS):
            raise ValueError(
                f"its {len(raw):,} bytes are not a whole number of records of {labels + _PIXELS}"
            )
        records = np.frombuffer(raw, dtype=np.uint8).reshape(-1, labels + _PIXELS)
        return _checked(records[:, labels:], records[:, labels - 1].astype(np.int64), classes)

    return decode


def _checked(
    pixels: "np.ndarray[Any, np.dtype[np.uint8]]",
    labels: "np.ndarray[Any, np.dtype[np.int64]]",
    classes: int,
) -> Images:
    if not len(pixels) or len(pixels) != len(labels):
        raise ValueError(f"it has {len(pixels)} images and {len(labels)} labels")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"its labels reach from {labels.min()} to {labels.max()}")
    images = torch.from_numpy(pixels.reshape(-1, *_SHAPE).copy())
    return images, torch.from_numpy(labels)
