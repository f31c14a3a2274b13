"""Warnings that name the line of the user's code that led to them."""

import sys
import warnings
from pathlib import Path

import torch

_INSIDE = tuple(f"{Path(file).parent}/" for file in (__file__, torch.__file__))
"""Where the code lies that users did not write."""


def warn(message: str) -> None:
    """Warns of a likely mistake, at the innermost line that is neither grawa's nor torch's."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INSIDE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
