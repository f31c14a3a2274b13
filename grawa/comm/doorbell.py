"""How processes of one machine tell each other that they are there: by a word in a pipe."""

import os
import select
import struct
import time
import weakref
from collections.abc import Iterable, Mapping
from contextlib import suppress

from grawa.comm.group import Group
from grawa.errors import CommunicationError

_WORD = struct.Struct("=i")  # who has come; or -1 - who has gone, and will not come again
_ROOM = 4096  # bytes to read at once; words are written whole


class Doorbell:
    """Each process has a pipe, into which the others write their number when they have come.

    It takes a fraction of the processor time of a small message by gloo. A process that ends or
    closes its doorbell is noticed at once, one that is silent after the group's timeout.

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
        self._bells: dict[int, int] = {}
        self._gone: set[int] = set()
        self._close = weakref.finalize(self, _close_all, self._bells, group.process, opened)
        os.set_blocking(self._pipe, False)
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
            _ring(bell, self._group.process)
        return self._rung

    def close(self) -> None:
        """Tells the others that this process will not come again."""
        self._close()

    def wait(self, times: int, purpose: str) -> None:
        """Waits until all others have come so many times.

        Raises:
            CommunicationError: if one has ended, or is silent for longer than the timeout.
        """
        end = time.monotonic() + self._group.timeout.total_seconds()
        while missing := [peer for peer in self._bells if self._heard[peer] < times]:
            left = end - time.monotonic()
            patience = 0.0 if self._gone.intersection(missing) else max(0.0, left)
            ready = [at for at, _ in self._poll.poll(patience * 1e3)]
            if self._pipe in ready:
                self._hear(os.read(self._pipe, _ROOM))
            elif gone := [peer for peer in missing if peer in self._gone]:
                raise CommunicationError(self._lost(gone, purpose, "it has given up"))
            elif ended := [self._lives[at] for at in ready if self._lives[at] in missing]:
                raise CommunicationError(self._lost(ended, purpose, "it has ended"))
            elif left <= 0.0:
                how = "it was silent for longer than the timeout"
                raise CommunicationError(self._lost(missing, purpose, how))
            elif ready:  # one that has said all it had to say, and whose end is no news
                for at in ready:
                    self._poll.unregister(at)

    def _hear(self, words: bytes) -> None:
        for (word,) in _WORD.iter_unpack(words):
            if word >= 0:
                self._heard[word] += 1
            else:
                self._gone.add(-1 - word)

    def _lost(self, peers: Iterable[int], purpose: str, how: str) -> str:
        ranks = " and ".join(self._group.names[peer] for peer in peers)
        own = self._group.own_name
        return f"{own} lost contact with {ranks} while trying to {purpose}: {how}"


def _ring(bell: int, word: int) -> None:
    with suppress(BrokenPipeError):  # it has ended, which `wait` notices
        os.write(bell, _WORD.pack(word))


def _close_all(bells: Mapping[int, int], process: int, descriptors: list[int]) -> None:
    for bell in bells.values():
        _ring(bell, -1 - process)
    for descriptor in descriptors:
        os.close(descriptor)
