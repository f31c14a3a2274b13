"""The manifest of a checkpoint: what it is, and what it holds, in words."""

import json
import time
from pathlib import Path
from typing import Any

import torch

from grawa.checkpoints.extras import Extras
from grawa.checkpoints.files import read_text
from grawa.checkpoints.layout import FORMAT, Layout
from grawa.checkpoints.places import MANIFEST, checkpoints
from grawa.errors import UserError
from grawa.rounds.engine import Engine
from grawa.rounds.origin import described
from grawa.saving.part import CheckpointError, ForeignError
from grawa.version import __version__


def manifest_of(engine: Engine, layout: Layout, id: str, extras: Extras) -> dict[str, Any]:
    """The manifest of a checkpoint that is saved now.

    Args:
        engine: with the hosted workers.
        layout: of the checkpoint.
        id: of the checkpoint.
        extras: what its user adds.

    Returns:
        Plain values.
    """
    return {
        "format": FORMAT,
        "grawa": __version__,
        "torch": torch.__version__,
        "id": id,
        "saved": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "round": engine.round,
        "step": engine.step,
        **layout.counts(),
        "strategy": described(engine.plan.strategy),
        "schedule": described(engine.plan.schedule),
        "about": dict(extras.about),
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads a checkpoint's manifest.

    Args:
        folder: of the checkpoint.

    Returns:
        Its entries.

    `CheckpointError` if it is damaged, or of another version.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError):
        manifest = None
    return checked(manifest, str(path))


def checked(manifest: object, where: str) -> dict[str, Any]:
    """Refuses what is not the manifest of a checkpoint that can be read.

    Args:
        manifest: anything.
        where: it was, for errors.

    Returns:
        The manifest.

    Raises:
        CheckpointError: if it is damaged.
        ForeignError: if it is of another version.
    """
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
        raise CheckpointError(f"{where} is damaged")
    if manifest["format"] != FORMAT:
        raise ForeignError(
            f"it was saved by grawa {str(manifest.get('grawa'))[:20]} in format "
            f"{manifest['format']}, and this is grawa {__version__}, which reads format "
            f"{FORMAT}: use that version"
        )
    if not isinstance(manifest.get("about"), dict):
        raise CheckpointError(f"{where} is damaged: it does not say what it belongs to")
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
