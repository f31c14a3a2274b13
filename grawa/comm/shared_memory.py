"""Memory that the processes of one machine reach in each other, where nothing need be sent."""

import mmap
import os
import weakref
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


class Handle(NamedTuple):
    """How another process finds a block."""

    pid: int
    descriptor: int
    num_bytes: int


@dataclass
class Block:
    """A block of this process's memory, and what the others keep in its place."""

    handle: Handle
    address: int
    theirs: list[Tensor] = field(default_factory=list)
    """Each process's counterpart, uint8, once they are known; the own one among them."""


class SharedMemory:
    """Blocks of memory that other processes of the machine can map.

    A block has no name in any file system and no size limit but the machine's. It is gone when
    its last user is, however that came about.

    >>> memory = SharedMemory()
    >>> tensor = memory.empty(3, torch.float32).fill_(1.0)
    >>> attach(memory.find(tensor).handle).view(torch.float32)
    tensor([1., 1., 1.])
    >>> memory.find(torch.ones(3)) is None
    True
    """

    def __init__(self) -> None:
        self._blocks: dict[int, Block] = {}
        self._made = 0

    def empty(self, size: int, dtype: torch.dtype) -> Tensor:
        """A flat tensor of zeros in a block of its own, (size,)."""
        num_bytes = size * dtype.itemsize
        if num_bytes == 0:
            return torch.empty(0, dtype=dtype)
        descriptor = os.memfd_create("grawa")
        os.ftruncate(descriptor, num_bytes)
        memory = mmap.mmap(descriptor, num_bytes)
        tensor = torch.frombuffer(memory, dtype=dtype)
        self._made += 1
        handle = Handle(os.getpid(), descriptor, num_bytes)
        self._blocks[self._made] = Block(handle, tensor.data_ptr())
        weakref.finalize(memory, self._forget, self._made).atexit = False
        return tensor

    def _forget(self, number: int) -> None:
        os.close(self._blocks.pop(number).handle.descriptor)

    def find(self, tensor: Tensor) -> Block | None:
        """The block that a tensor lies in, if it lies in one."""
        at = tensor.data_ptr()
        for block in self._blocks.values():
            if block.address <= at < block.address + block.handle.num_bytes:
                return block
        return None


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


def counterparts(tensor: Tensor, block: Block) -> list[Tensor]:
    """What each process keeps where this one keeps a tensor, which lies in a block."""
    offset = tensor.data_ptr() - block.address
    return [
        theirs[offset : offset + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        for theirs in block.theirs
    ]
