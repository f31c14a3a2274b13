"""Counts in a file that processes of one machine share."""

import json
import os
from typing import Protocol

VARIABLE = "GRAWA_COUNTS"
"""The environment variable by which `grawa train` names the file of its processes' counts."""


class Counts(Protocol):
    """What keeps counts for several processes: a store of torch.distributed, or a file."""

    def add(self, key: str, value: int, /) -> int:
        """Adds to a count, which begins at zero; returns the sum."""

    def delete_key(self, key: str, /) -> bool:
        """Forgets a count; returns whether there was one."""


class CountFile:
    """Counts in a file.

    torch's own `FileStore` appends each request to its file, which would grow with every local
    step.

    Args:
        path: a file that exists, empty at first; all processes name the same one.
        namespace: put before each key.
    """

    def __init__(self, path: str, namespace: str) -> None:
        self._path = path
        self._namespace = namespace

    def add(self, key: str, value: int) -> int:
        """See `Counts.add`.

        Returns:
            The sum.

        >>> from tempfile import NamedTemporaryFile
        >>> with NamedTemporaryFile() as file:
        ...     one, other = CountFile(file.name, "a"), CountFile(file.name, "a")
        ...     one.add("steps", 2), other.add("steps", 3)
        (2, 5)
        """
        return self._change(key, value) or 0

    def delete_key(self, key: str) -> bool:
        """See `Counts.delete_key`."""
        return self._change(key, None) is not None

    def _change(self, key: str, value: int | None) -> int | None:
        """Adds a value to a count, or takes the count out; returns what the count is, or was."""
        import fcntl  # there is none on Windows

        name = f"{self._namespace}/{key}"
        file = os.open(self._path, os.O_RDWR)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)  # the end of a process frees it, however it ends
            counts: dict[str, int] = json.loads(os.pread(file, os.fstat(file).st_size, 0) or b"{}")
            if value is None:
                found = counts.pop(name, None)
            else:
                found = counts[name] = counts.get(name, 0) + value
            text = json.dumps(counts).encode()
            os.pwrite(file, text, 0)
            os.ftruncate(file, len(text))
            return found
        finally:
            os.close(file)
