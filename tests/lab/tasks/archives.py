"""Small data sets on disk, in exactly the forms in which the large ones are published."""

import io
import pickle
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Array = np.ndarray[Any, np.dtype[np.uint8]]

TEN = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")


def pixels(count: int, seed: int) -> Array:
    """Images in rows: all red, then all green, then all blue."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def labels(count: int, classes: int, seed: int) -> list[int]:
    """Labels of `count` images."""
    return [(7 * i + seed) % classes for i in range(count)]


def python_files(classes: int, count: int = 8) -> dict[str, bytes]:
    """The files of the form for Python, with so many images in each."""
    files = {}
    for seed, name in enumerate(TEN if classes == 10 else ("train", "test")):
        found: dict[bytes, Any] = {
            b"batch_label": f"part {seed}".encode(),
            b"data": pixels(count, seed),
            b"filenames": [f"image_{i}.png".encode() for i in range(count)],
        }
        if classes == 10:
            found[b"labels"] = labels(count, 10, seed)
        else:
            found[b"coarse_labels"] = labels(count, 20, seed + 1)
            found[b"fine_labels"] = labels(count, 100, seed)
        files[name] = pickle.dumps(found, protocol=2)
    meta = {b"num_vis": 3072, b"label_names": [b"airplane", b"truck"]}
    return {**files, "batches.meta" if classes == 10 else "meta": pickle.dumps(meta, protocol=2)}


def binary_files(classes: int, count: int = 8) -> dict[str, bytes]:
    """The files of the form for C, with the same images and labels."""
    files = {}
    for seed, name in enumerate(TEN if classes == 10 else ("train", "test")):
        columns = [np.array(labels(count, classes, seed), dtype=np.uint8)[:, None]]
        if classes == 100:
            columns.insert(0, np.array(labels(count, 20, seed + 1), dtype=np.uint8)[:, None])
        files[f"{name}.bin"] = np.hstack([*columns, pixels(count, seed)]).tobytes()
    return files


def write_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    """The files in a folder."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def write_archive(path: Path, folder: str, files: Mapping[str, bytes]) -> Path:
    """The files in a folder in a tar.gz."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_jpegs(folder: Path, classes: Mapping[str, list[tuple[int, int, int]]]) -> Path:
    """One-coloured photographs, of many sizes, in a folder for each class."""
    for name, colours in classes.items():
        (folder / name).mkdir(parents=True)
        for index, colour in enumerate(colours):
            size = (80 + 13 * index, 61) if index % 2 else (61, 80 + 13 * index)
            image = Image.new("RGB", size, colour)
            image.save(folder / name / f"{name}_{index}.JPEG", quality=95)
    return folder


def pickle_of_python_2(table: Mapping[bytes, Any]) -> bytes:
    """A dictionary of arrays and lists of small numbers, as Python 2 pickled it in protocol 2."""
    items = b"".join(_text(key) + _value(value) for key, value in table.items())
    return b"\x80\x02}(" + items + b"u."


def _text(value: bytes) -> bytes:
    return b"U" + struct.pack("<B", len(value)) + value


def _value(value: Any) -> bytes:
    if isinstance(value, list):
        return b"](" + b"".join(b"K" + bytes([number]) for number in value) + b"e"
    rows, columns = value.shape
    empty = b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    kind = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
    kind += b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"M" + struct.pack("<H", rows) + b"M" + struct.pack("<H", columns) + b"\x86"
    raw: bytes = value.tobytes()
    contents = b"T" + struct.pack("<i", len(raw)) + raw
    return empty + b"(K\x01" + shape + kind + b"\x89" + contents + b"tb"
