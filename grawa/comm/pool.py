"""Process groups of transports, which are used again when a transport is released."""

import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import torch.distributed as dist

from grawa.comm.count_file import VARIABLE, CountFile, Counts
from grawa.comm.greeting import greet
from grawa.comm.listeners import closed_afterwards
from grawa.errors import CommunicationError, UserError


@dataclass
class Lease:
    """A process group, for as long as a transport uses it."""

    group: dist.ProcessGroup
    members: list[int]
    """By number in the world that made the group; for torch.distributed by global rank."""
    process: int
    """Which of them this is."""
    timeout: timedelta
    backend: str | None = None
    """Of torch.distributed, if it is not the default group's."""
    noun: str = "rank"
    """What errors call a member, before its number."""
    uses: int = 0
    """Transports that have used it before."""
    _connection: Counts | None = None

    def connection(self) -> Counts:
        """What keeps the group's counts: a file, or a connection to its store besides torch's own.

        While torch's store accepts a connection it answers nobody, for 5 s where the look-up of a
        name fails. So it is opened at the first call only, and kept for later transports.

        Returns:
            The same one each time.
        """
        if self._connection is None:
            if VARIABLE in os.environ:
                self._connection = CountFile(os.environ[VARIABLE], self.group.group_name)
            else:
                self._connection = self.group.get_group_store().clone()  # type: ignore[attr-defined]
        return self._connection


class World(Protocol):
    """All processes that can be connected, and a way to make process groups of some of them."""

    def everyone(self) -> list[int]:
        """The numbers of all its processes."""
        ...

    def lease(self, members: list[int], timeout: timedelta, backend: str | None = None) -> Lease:
        """A process group of these processes; collective among them."""
        ...

    def give_back(self, ended: Lease) -> None:
        """Keeps a process group in good order for the next transport; collective."""
        ...

    def abandon(self, ended: Lease) -> None:
        """Ends a process group that may be out of step, without a word to the others."""
        ...


class TorchWorld:
    """The processes of torch.distributed's default group."""

    def everyone(self) -> list[int]:
        """See `World.everyone`; by global rank."""
        return list(range(dist.get_world_size()))

    def lease(self, members: list[int], timeout: timedelta, backend: str | None = None) -> Lease:
        """See `lease`."""
        return lease(members, timeout, backend)

    def give_back(self, ended: Lease) -> None:
        """See `give_back`."""
        give_back(ended)

    def abandon(self, ended: Lease) -> None:
        """See `abandon`."""
        abandon(ended)


_free: dict[tuple[tuple[int, ...], timedelta, str | None], list[Lease]] = {}
"""Process groups that were given back in good order; a process has one set of them."""


def lease(members: list[int], timeout: timedelta, backend: str | None = None) -> Lease:
    """A process group of these ranks; collective.

    Args:
        members: by global rank.
        timeout: of its operations.
        backend: of torch.distributed; by default the default group's.

    Returns:
        One that was given back, or a new one.

    Raises:
        CommunicationError: if not all of them come to make one.
        UserError: if this process is not one of them.
    """
    if dist.get_rank() not in members:
        raise UserError(
            f"rank {dist.get_rank()} is not one of the ranks {members} that average: pass the "
            "process group that this rank belongs to, or do without an Averager here"
        )
    free = _free.get((tuple(members), timeout, backend), [])
    while free:
        found = free.pop()
        if _is_open(found.group):  # ending the default group ends all others
            return found
    everyone = members == list(range(dist.get_world_size()))
    try:
        # A group of some ranks has a name made of them, so that the others need not take part.
        with closed_afterwards():
            created = dist.new_group(
                members, timeout=timeout, backend=backend, use_local_synchronization=not everyone
            )
            assert isinstance(created, dist.ProcessGroup), "this process belongs to the group"
        check_greetings(created, timeout)
    except CommunicationError:
        raise
    except RuntimeError as error:
        raise CommunicationError(
            f"rank {dist.get_rank()} gave up waiting for all of ranks {members} to make their "
            f"process group ({str(error).splitlines()[0]})"
        ) from error
    return Lease(created, members, members.index(dist.get_rank()), timeout, backend)


def check_greetings(group: dist.ProcessGroup, timeout: timedelta) -> None:
    """See `greet`, for a group that has just been opened with whatever backends; collective."""
    if group.size() > 1 and backends_of(group).get("cpu") == "gloo":
        greet(group, timeout)


def give_back(ended: Lease) -> None:
    """Keeps a process group for the next transport between the same processes; collective."""
    ended.uses += 1
    key = tuple(ended.members), ended.timeout, ended.backend
    _free.setdefault(key, []).append(ended)


def forget() -> None:
    """Lets go of the process groups that were given back, which the default group's end closes."""
    _free.clear()


def abandon(ended: Lease) -> None:
    """Ends a process group that may be out of step, without a word to the others.

    A group of some ranks stays until the default group ends: the next one of them would have the
    same name, and find the old one's addresses. So does one on GPUs, whose end may wait for others.
    """
    with suppress(Exception):  # the default group has ended, or the interpreter is about to
        everyone = ended.members == list(range(dist.get_world_size()))
        if everyone and _is_open(ended.group) and backends_of(ended.group)["cpu"] == "gloo":
            dist.destroy_process_group(ended.group)


def _is_open(group: dist.ProcessGroup) -> bool:
    try:
        return bool(dist.get_process_group_ranks(group))
    except (KeyError, ValueError, RuntimeError):
        return False


def ranks_of(group: dist.ProcessGroup | None) -> list[int]:
    """The ranks of a user's process group.

    Returns:
        By global rank; all of them by default.

    Raises:
        UserError: if this process is not in the group.
    """
    if group is None:
        return list(range(dist.get_world_size()))
    if not isinstance(group, dist.ProcessGroup):  # torch gives ranks outside a mark in its place
        raise UserError(
            f"rank {dist.get_rank()} is not in the process_group that it was given; pass the group "
            "that this rank belongs to, or do without an Averager here"
        )
    return dist.get_process_group_ranks(group)


def backends_of(group: dist.ProcessGroup) -> dict[str, str]:
    """The backend for each type of device."""
    if isinstance(group, dist.ProcessGroupGloo):  # not made through torch.distributed
        return {"cpu": "gloo"}
    parts = dist.get_backend_config(group).split(",")
    return {kind: backend for kind, _, backend in (part.partition(":") for part in parts)}
