"""Writes checkpoints in the background, and completes them when all processes have written."""

import errno
import os
import time
from collections.abc import Callable
from threading import Thread
from typing import Any

import torch
from torch import Tensor

from grawa.saving.folder import Checkpoints

_NOT_YET = 0.0
"""In place of the seconds that writing took."""


class Saver:
    """Writes this process's parts of checkpoints while training goes on.

    Args:
        checkpoints: the folder.
        process: which process this is.
        gather: brings a number of this process to all: (M,), in the same order everywhere, with at
            least one number of each process; collective. `None` for a process that is alone.

    Attributes:
        seconds: what the last complete checkpoint took to write, on the slowest process.
    """

    def __init__(
        self, checkpoints: Checkpoints, process: int, gather: Callable[[float], Tensor] | None
    ) -> None:
        self._checkpoints, self._process, self._gather = checkpoints, process, gather
        self._writing: _Writing | None = None
        self.seconds = 0.0

    def save(self, round_number: int, state: dict[str, Any]) -> None:
        """Begins to write a checkpoint, after the one before is complete; collective.

        Args:
            round_number: of the checkpoint.
            state: plain values and tensors that nobody changes any more.

        It raises what `settle` raises.
        """
        self.settle(wait=True)
        checkpoints, process, alone = self._checkpoints, self._process, self._gather is None

        def write() -> None:
            checkpoints.write(round_number, process, state)
            if alone:
                checkpoints.complete(round_number)

        self._writing = _Writing(round_number, write)

    def settle(self, *, wait: bool = False) -> None:
        """Completes the checkpoint under way if all processes have written it; collective.

        Args:
            wait: until they have.

        Raises:
            OSError: on every process, if one could not write it. Complete ones are still there.
        """
        writing = self._writing
        if writing is None:
            return
        own = writing.seconds(wait=wait)
        seconds = torch.tensor([own]) if self._gather is None else self._gather(own)
        if bool((seconds == _NOT_YET).any()):
            return
        self._writing = None
        if writing.error is not None:
            raise writing.error
        if bool((seconds < 0.0).any()):
            number = int(-seconds.min())
            where = self._checkpoints.path(writing.round)
            raise OSError(number, os.strerror(number), str(where))
        if self._gather is not None:
            self._checkpoints.complete(writing.round)
        self.seconds = float(seconds.max())


class _Writing:
    """A part of a round's checkpoint that is being written by a thread."""

    def __init__(self, round_number: int, write: Callable[[], None]) -> None:
        self.round = round_number
        self.error: OSError | None = None
        self._began, self._ended = time.monotonic(), 0.0

        def run() -> None:
            try:
                write()
            except OSError as error:
                self.error = error
            self._ended = time.monotonic()

        # A daemon, so that a process that has failed can exit without waiting for the disk.
        self._thread = Thread(target=run, name="grawa checkpoint", daemon=True)
        self._thread.start()

    def seconds(self, *, wait: bool) -> float:
        """How long it took, or `_NOT_YET`; the error's number, negative, if it failed."""
        self._thread.join(None if wait else 0.0)
        if self._thread.is_alive():
            return _NOT_YET
        if self.error is not None:
            return -float(self.error.errno or errno.EIO)
        return max(self._ended - self._began, 1e-9)
