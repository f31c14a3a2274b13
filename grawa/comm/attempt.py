"""Processes that are started again find each other, and not what ended ones left behind."""

import time
from datetime import timedelta
from uuid import uuid4

from torch._C._distributed_c10d import PrefixStore, Store

from grawa.errors import CommunicationError

_LOOK_SECONDS = 0.02
"""Between two looks into a store."""


def of_attempt(store: Store, rank: int, size: int, timeout: timedelta) -> Store:
    """The part of a store that belongs to this attempt of processes which are started again.

    The store of torchrun's agent outlives its processes, and still has the addresses of those that
    ended. The number of restarts does not tell attempts apart, since agents of different hosts
    count differently. So rank 0 makes up a name, and gives it to the processes that asked this
    very rank 0.

    Args:
        store: which all attempts share.
        rank: of this process.
        size: number of processes.
        timeout: how long to wait for the others.

    Returns:
        The same part for all processes that live.

    Raises:
        CommunicationError: if some do not come; it names them.
    """
    me = uuid4().hex
    end = time.monotonic() + timeout.total_seconds()
    if rank == 0:
        store.set("grawa/first", me)
        _admit(store, me, size, end)
        return PrefixStore(f"grawa/{me}", store)
    asked = ""
    while time.monotonic() < end:
        first = _look(store, "grawa/first")
        if first != asked:
            asked = first
            store.set(f"grawa/{first}/{rank}", me)
        if me in _look(store, f"grawa/{first}/members").split():
            return PrefixStore(f"grawa/{first}", store)
        time.sleep(_LOOK_SECONDS)
    raise CommunicationError(
        f"rank {rank} waited {timeout.total_seconds():g} s for rank 0 to begin"
    )


def _admit(store: Store, me: str, size: int, end: float) -> None:
    """Rank 0 waits until all others have asked it, and says who they are."""
    members = {0: me}
    while len(members) < size:
        missing = [rank for rank in range(size) if rank not in members]
        if time.monotonic() > end:
            raise CommunicationError(f"rank 0 gave up waiting for ranks {missing} to begin")
        for rank in missing:
            if found := _look(store, f"grawa/{me}/{rank}"):
                members[rank] = found
        time.sleep(_LOOK_SECONDS)
    store.set(f"grawa/{me}/members", " ".join(members.values()))


def _look(store: Store, key: str) -> str:
    """What a store has under a key; nothing if there is nothing as yet."""
    return store.get(key).decode() if store.check([key]) else ""
