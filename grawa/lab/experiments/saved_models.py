"""Reads the models that runs have saved."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from grawa.errors import UserError
from grawa.lab.files import opened


def read_model(path: Path) -> dict[str, Tensor]:
    """Reads a safetensors file; nothing in it is executed.

    Args:
        path: the file.

    Returns:
        The state dict.

    Raises:
        UserError: if it is missing, or no whole safetensors file.
    """
    with opened(path):  # a pipe or a device would never end
        pass
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        cause = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{path} is not a complete safetensors file: {cause:.200}") from None
