"""The manifest of a checkpoint: what it is, and what it holds, in words."""

import json
from pathlib import Path
from typing import Any

from grawa.checkpoints.files import read_text
from grawa.checkpoints.layout import FORMAT
from grawa.checkpoints.places import MANIFEST, checkpoints
from grawa.errors import UserError
from grawa.saving.part import CheckpointError, ForeignError
from grawa.version import __version__


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads a checkpoint's manifest.

    Args:
        folder: of the checkpoint.

    Returns:
        Its entries.

    Raises:
        CheckpointError: if it is damaged.
        ForeignError: if it is of another version.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError):
        manifest = None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
        raise CheckpointError(f"{path} is damaged")
    if manifest["format"] != FORMAT:
        raise ForeignError(
            f"it was saved by grawa {str(manifest.get('grawa'))[:20]} in format "
            f"{manifest['format']}, and this is grawa {__version__}, which reads format "
            f"{FORMAT}: use that version"
        )
    if not isinstance(manifest.get("about"), dict):
        raise CheckpointError(f"{path} is damaged: it does not say what it belongs to")
    return manifest


def newest_about(folder: Path) -> dict[str, Any]:
    """What the newest checkpoint with a sound manifest belongs to; empty if there is none."""
    try:
        found = list(checkpoints(folder).values())
    except UserError:
        return {}
    for path in reversed(found):
        try:
            about: dict[str, Any] = read_manifest(path)["about"]
        except UserError:
            continue
        return about
    return {}
