"""Writes and reads the models of runs, with a checksum, as safetensors files."""

import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from grawa.errors import UserError
from grawa.lab.files import opened
from grawa.saving.whole import replacing

_CHECKSUM = "crc32"
"""The entry of a file's metadata; files of earlier versions have none."""


def write_model(state: Mapping[str, Tensor], path: Path) -> None:
    """Writes a state dict, completely or not at all."""
    whole = {name: value.contiguous() for name, value in state.items()}
    with replacing(path) as temporary:
        temporary.touch()
        usual = temporary.stat().st_mode  # safetensors would let nobody else read the file
        save_file(whole, temporary, metadata={_CHECKSUM: _checksum(whole)})
        temporary.chmod(usual)


def read_model(path: Path) -> dict[str, Tensor]:
    """Reads what `write_model` has written; nothing in the file is executed.

    Args:
        path: the file.

    Returns:
        The state dict.

    Raises:
        UserError: if it is missing, no whole safetensors file, or has changed since it was written.
    """
    with opened(path):  # a pipe or a device would never end
        pass
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # ruff: ignore[in-dict-keys]
            expected = (file.metadata() or {}).get(_CHECKSUM)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        cause = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{path} is not a complete safetensors file: {cause:.200}") from None
    if expected is not None and expected != _checksum(found):
        raise UserError(
            f"{path} has changed since it was written: its numbers don't fit its checksum; put it "
            "back from a copy"
        )
    return found


def _checksum(state: Mapping[str, Tensor]) -> str:
    """A number for all names, types, shapes and values."""
    found = 0
    for name, value in sorted(state.items()):
        found = zlib.crc32(f"{name} {value.dtype} {tuple(value.shape)}".encode(), found)
        found = zlib.crc32(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data, found)
    return f"{found:08x}"
