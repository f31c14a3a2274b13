"""Checkpoints: written by several processes, complete or not there, with checksums, never executed.

A checkpoint is a folder `round-0000000020` with one file for each process, `process-0.pt` and so
on, and its checksum beside it, which `sha256sum -c` understands too. It is written under another
name, and renamed when all processes have written their parts. Parts are read with torch's
`weights_only=True`, so that a hostile file can't execute anything.
"""

from grawa.saving.choice import Chosen, Everyones, choose
from grawa.saving.folder import Checkpoints
from grawa.saving.part import CheckpointError, ForeignError, check, read_part, seal, write_part
from grawa.saving.saver import Saver
from grawa.saving.whole import replacing, sync_folder

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "Chosen",
    "Everyones",
    "ForeignError",
    "Saver",
    "check",
    "choose",
    "read_part",
    "replacing",
    "seal",
    "sync_folder",
    "write_part",
]
