"""Files that are complete or not there, with checksums, and read without executing anything.

Each has its checksum beside it, which `sha256sum -c` understands too. Values and tensors are read
with torch's `weights_only=True`, so that a hostile file can't execute anything.
"""

from grawa.saving.part import CheckpointError, ForeignError, check, read_part, seal, write_part
from grawa.saving.whole import replacing, sync_folder

__all__ = [
    "CheckpointError",
    "ForeignError",
    "check",
    "read_part",
    "replacing",
    "seal",
    "sync_folder",
    "write_part",
]
