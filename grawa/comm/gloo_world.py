"""Process groups between the workers of a quorum, made without torch.distributed's default one."""

import socket
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from typing import cast

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from grawa.comm.pool import Lease
from grawa.errors import CommunicationError, UserError


class OwnStore:
    """A store that listens at one address only, in which the workers of a quorum find each other.

    Args:
        address: of this machine.

    Raises:
        UserError: if it is not.
    """

    def __init__(self, address: str) -> None:
        try:
            family, *_, place = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
            listener = socket.socket(family, socket.SOCK_STREAM)
            listener.bind(place)
        except OSError as error:
            raise UserError(f"nothing can listen at the address {address} ({error})") from error
        listener.listen()
        self._port = listener.getsockname()[1]
        self._address = address
        self._store = TCPStore(
            address,
            self._port,
            is_master=True,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )

    @property
    def place(self) -> str:
        """Where it is, "host:port"."""
        return f"{self._address}:{self._port}"


def check_listening(places: Sequence[str], within: timedelta) -> None:
    """Checks that stores are in reach: a connection to one that is not would be tried for long.

    Args:
        places: "host:port" of each.
        within: seconds until all must have answered.

    Raises:
        CommunicationError: if one is not.
    """
    with ThreadPoolExecutor(max(1, len(places)), "grawa reach") as threads:
        tries = {place: threads.submit(_touch, place, within) for place in places}
    for place, tried in tries.items():
        error = tried.exception()
        if error is not None:
            raise CommunicationError(f"the process at {place} is not in reach ({error})") from error


def _touch(place: str, within: timedelta) -> None:
    host, _, port = place.rpartition(":")
    socket.create_connection((host, int(port)), within.total_seconds()).close()


class GlooWorld:
    """The workers of a quorum.

    Args:
        name: of the quorum, unique.
        workers: their numbers.
        worker: the number of this one.
        store: where they find each other, "host:port".
        address: of this machine, at which the others reach it.
        timeout: how long to wait for the others.

    Raises:
        CommunicationError: if the store is out of reach.
    """

    def __init__(
        self,
        name: str,
        workers: list[int],
        worker: int,
        *,
        store: str,
        address: str,
        timeout: timedelta,
    ) -> None:
        self._workers, self._worker, self._address = workers, worker, address
        host, _, port = store.rpartition(":")
        try:
            connected = TCPStore(host, int(port), is_master=False, timeout=timeout)
        except RuntimeError as error:
            raise CommunicationError(
                f"worker {worker} can't reach the store of the quorum at {store} "
                f"({str(error).splitlines()[0]})"
            ) from error
        self._store: Store = PrefixStore(name, connected)
        self._made: Counter[str] = Counter()

    def everyone(self) -> list[int]:
        """See `World.everyone`."""
        return list(self._workers)

    def lease(self, members: list[int], timeout: timedelta, backend: str | None = None) -> Lease:
        """See `World.lease`; by gloo, whatever the backend."""
        process = members.index(self._worker)
        who = "-".join(map(str, members))
        self._made[who] += 1
        store = PrefixStore(f"{who}/{self._made[who]}", self._store)
        options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._timeout = timeout
        try:
            options._devices = [dist.ProcessGroupGloo.create_device(hostname=self._address)]
            made = dist.ProcessGroupGloo(store, process, len(members), options)
        except RuntimeError as error:
            raise CommunicationError(
                f"worker {self._worker} gave up waiting for all of workers {members} to connect "
                f"({str(error).splitlines()[0]})"
            ) from error
        group = cast(dist.ProcessGroup, made)  # as far as sending and receiving go
        return Lease(group, members, process, timeout, backend, noun="worker")

    def give_back(self, ended: Lease) -> None:
        """See `World.give_back`; the next quorum makes its own."""
        self.abandon(ended)

    def abandon(self, ended: Lease) -> None:
        """See `World.abandon`; the others' messages to this process fail at once."""
        with suppress(RuntimeError):
            ended.group.abort()
