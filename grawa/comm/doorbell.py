"""How processes of one machine tell each other that they are there: by a word in a pipe."""

import os
import select
import struct
import time
import weakref
from collections.abc import Iterable
from contextlib import suppress

import torch.distributed as dist

from grawa.comm.group import Group
from grawa.errors import CommunicationError

_WORD = struct.Struct("=I")
_ROOM = 4096  # bytes to read at once; words are written whole


class Doorbell:
    """Each process has a pipe, into which the others write their number when they have come.

    It takes a fraction of the processor time of a small message by gloo. A process that ends is
    noticed at once, one that is silent after the group's timeout.

    Args:
        group: the processes, which can open each other's files in /proc.

    Raises:
        OSError: if they can't.
    """

    def __init__(self, group: Group) -> None:
        self._group = group
        self._rung = 0
        self._heard = [0] * len(group.members)
        self._pipe, own = os.pipe()
        opened = [self._pipe, own]
        self._close = weakref.finalize(self, _close_all, opened)
        os.set_blocking(self._pipe, False)
        self._bells: dict[int, int] = {}
        self._lives: dict[int, int] = {}
        everyone = group.everyone([os.getpid(), own], "open doorbells")
        for peer in group.peers():
            pid, pipe = everyone[peer]
            self._bells[peer] = os.open(f"/proc/{pid}/fd/{pipe}", os.O_WRONLY)
            life = os.pidfd_open(pid)
            self._lives[life] = peer
            opened += [self._bells[peer], life]
        group.everyone([0], "open doorbells")  # or one might be gone before all have found it
        self._poll = select.poll()
        for descriptor in (self._pipe, *self._lives):
            self._poll.register(descriptor, select.POLLIN)

    def meet(self, purpose: str) -> None:
        """Waits until all have come."""
        self.wait(self.ring(), purpose)

    def ring(self) -> int:
        """Tells the others that this process has come.

        Returns:
            How many times it has by now, which `wait` needs.
        """
        self._rung += 1
        for bell in self._bells.values():
            with suppress(BrokenPipeError):  # it has ended, which `wait` notices
                os.write(bell, _WORD.pack(self._group.process))
        return self._rung

    def wait(self, times: int, purpose: str) -> None:
        """Waits until all others have come so many times.

        Raises:
            CommunicationError: if one has ended, or is silent for longer than the timeout.
        """
        end = time.monotonic() + self._group.timeout.total_seconds()
        while missing := [peer for peer in self._bells if self._heard[peer] < times]:
            left = end - time.monotonic()
            ready = [at for at, _ in self._poll.poll(max(0.0, left) * 1e3)]
            if self._pipe in ready:
                for (peer,) in _WORD.iter_unpack(os.read(self._pipe, _ROOM)):
                    self._heard[peer] += 1
            elif ended := [self._lives[at] for at in ready if self._lives[at] in missing]:
                raise CommunicationError(self._lost(ended, purpose, "it has ended"))
            elif left <= 0.0:
                how = "it was silent for longer than the timeout"
                raise CommunicationError(self._lost(missing, purpose, how))
            elif ready:  # one that has said all it had to say, and whose end is no news
                for at in ready:
                    self._poll.unregister(at)

    def _lost(self, peers: Iterable[int], purpose: str, how: str) -> str:
        ranks = " and ".join(self._group.names[peer] for peer in peers)
        return f"rank {dist.get_rank()} lost contact with {ranks} while trying to {purpose}: {how}"


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
