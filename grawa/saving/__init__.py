"""Files that are complete or not there, with checksums, and read without executing anything.

Each has its checksum beside it, which `sha256sum -c` understands too. Values and tensors are read
with torch's `weights_only=True`, so that a hostile file can't execute anything.
"""
