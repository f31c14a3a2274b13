"""Memory that the processes of one machine reach in each other."""

import mmap
import os
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from grawa.errors import CommunicationError

Meet = Callable[[Sequence[int]], list[list[int]]]
"""Tells every process some whole numbers, and returns everyone's."""

_ALIGNMENT = 64  # bytes; a line of the cache


class Handle(NamedTuple):
    """How another process finds a block."""

    pid: int
    descriptor: int
    num_bytes: int


def make(num_bytes: int) -> tuple[Tensor, Handle]:
    """A block of this process's memory that other processes of the machine can map.

    It has no name in any file system and no size limit but the machine's; pages that nobody writes
    take no memory. It is gone when its last user is, however that came about.

    Returns:
        Its bytes, uint8, zero; and its handle, whose descriptor the caller closes once the others
        have mapped it.

    >>> values, handle = make(8)
    >>> attach(handle).fill_(1)[:2]
    tensor([1, 1], dtype=torch.uint8)
    >>> os.close(handle.descriptor); int(values.sum())
    8
    """
    descriptor = os.memfd_create("grawa")
    os.ftruncate(descriptor, num_bytes)
    values = torch.frombuffer(mmap.mmap(descriptor, num_bytes), dtype=torch.uint8)
    return values, Handle(os.getpid(), descriptor, num_bytes)


def attach(handle: Handle) -> Tensor:
    """Another process's block, mapped into this one; `OSError` if it can't be.

    Returns:
        Its bytes, uint8.
    """
    descriptor = os.open(f"/proc/{handle.pid}/fd/{handle.descriptor}", os.O_RDWR)
    try:
        return torch.frombuffer(mmap.mmap(descriptor, handle.num_bytes), dtype=torch.uint8)
    finally:
        os.close(descriptor)


def is_shared(meet: Meet) -> bool:
    """Whether all processes can map each other's memory: they try it with a random word."""
    word = int.from_bytes(os.urandom(7))
    handle = Handle(0, 0, 0)
    if hasattr(os, "memfd_create") and hasattr(os, "pidfd_open"):  # on Linux
        values, handle = make(torch.int64.itemsize)
        values.view(torch.int64).fill_(word)
    reached = all(_reads(Handle(*theirs), word) for word, *theirs in meet([word, *handle]))
    agreed = all(flag for (flag,) in meet([int(reached)]))
    if handle.num_bytes:
        os.close(handle.descriptor)
    return agreed


def _reads(handle: Handle, word: int) -> bool:
    """Whether another process's memory is there, and is what it is said to be."""
    try:
        os.close(os.pidfd_open(handle.pid))  # for the doorbell
        return int(attach(handle).view(torch.int64)) == word
    except (OSError, ValueError):
        return False


class Region:
    """A block of each process, mapped by all of them; it grows as needed.

    Args:
        meet: tells every process some numbers.
    """

    def __init__(self, meet: Meet) -> None:
        self._meet = meet
        self._of_each: list[Tensor] = []

    def flats(self, like: Sequence[Tensor]) -> list[list[Tensor]]:
        """Flat tensors in each process's block; what they hold is left, unless it grows.

        Args:
            like: flat tensors of the same forms; the forms are the same on every process.

        Returns:
            A list for each process.
        """
        sizes = [-(-flat.nbytes // _ALIGNMENT) * _ALIGNMENT for flat in like]
        if not self._of_each or sum(sizes) > self._of_each[0].numel():
            self._grow(max(sum(sizes), 1))
        starts = accumulate(sizes, initial=0)
        parts = [(start, start + x.nbytes, x.dtype) for start, x in zip(starts, like, strict=False)]
        return [[block[a:b].view(dtype) for a, b, dtype in parts] for block in self._of_each]

    def _grow(self, num_bytes: int) -> None:
        _, handle = make(num_bytes)
        try:
            self._of_each = [attach(Handle(*theirs)) for theirs in self._meet(handle)]
        except OSError as error:
            raise CommunicationError(
                f"process {os.getpid()} can't reach the memory of another one any more ({error}); "
                "shared_memory=False has them send everything"
            ) from error
        self._meet([0])  # or one might be gone before all have found it
        os.close(handle.descriptor)
