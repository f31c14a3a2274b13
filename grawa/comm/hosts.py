"""Which processes share a host, and how all of them reach each other."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from grawa.comm.carrier import Carrier
from grawa.comm.group import Group
from grawa.comm.levels import Hosts, Levels, OneLevel, TwoLevels
from grawa.comm.mailboxes import Mailboxes
from grawa.comm.shared_memory import is_shared
from grawa.comm.sockets import Sockets
from grawa.errors import UserError


class Part(Protocol):
    """Makes a group of some processes; collective among these."""

    def __call__(self, processes: Sequence[int], *, one_host: bool) -> Group:
        """A group of these processes, which are on one host, or on several."""
        ...


def levels_between(
    group: Group,
    part: Part,
    *,
    num_hosted: int,
    willing: bool,
    hosts: Sequence[Sequence[int]] | None,
    between_hosts: str | None,
) -> Levels:
    """How processes reach each other: in two levels if some share a host and others don't.

    Args:
        group: all processes.
        part: makes a group of some of them.
        num_hosted: K.
        willing: whether this process may share memory.
        hosts: the ranks of each host; `None` to find out.
        between_hosts: the backend that `part` uses between hosts.

    Returns:
        The connections. Every process must call it.

    Raises:
        UserError: if processes host different numbers of workers, or hosts or backends differ
            between processes, or hosts leave one out.
    """
    given = str(hosts and [list(ranks) for ranks in hosts])
    own = [num_hosted, this_machine(), int(willing), _number(given), _number(str(between_hosts))]
    everyone = group.everyone(own, "compare numbers of workers")
    hosted, machines, all_willing, *said = (list(column) for column in zip(*everyone, strict=True))
    if len(set(hosted)) > 1:
        raise UserError(
            f"every process must host the same number of workers, got {hosted} on ranks "
            f"{group.members}"
        )
    _check_same(group, "hosts", hosts, said[0])
    _check_same(group, "between_hosts", between_hosts, said[1])
    found = _by_machine(machines) if hosts is None else _by_rank(hosts, group.members)
    everything = range(len(machines))
    if len(found) == 1:
        near = part(everything, one_host=True)
        return OneLevel(_inside(near, machines, willing=all(all_willing)))
    host_of = {group.members[p]: h for h, processes in enumerate(found) for p in processes}
    if len(found) == len(machines):
        return OneLevel(_between(_name_hosts(part(everything, one_host=False), host_of)))
    mine = next(members for members in found if group.process in members)
    near = _name_hosts(part(mine, one_host=True), host_of)
    inside = _inside(near, [machines[p] for p in mine], willing=all(all_willing[p] for p in mine))
    flat = _between(_name_hosts(part(everything, one_host=False), host_of))
    reason = "found by the machine and network they share" if hosts is None else "as given"
    place = mine.index(group.process)
    if place < min(map(len, found)):
        peers = [members[place] for members in found]
        across = _between(_name_hosts(part(peers, one_host=False), host_of))
        return TwoLevels(found, group.process, inside, across, flat, reason)
    # torch names a group by its ranks and by how many groups a process has: so all make as many.
    part([group.process], one_host=False)
    return TwoLevels(found, group.process, inside, None, flat, reason)


def _check_same(group: Group, option: str, here: object, numbers: Sequence[int]) -> None:
    """Refuses an option that differs between processes, given a number for each one's."""
    mine = numbers[group.process]
    others = [rank for rank, its in zip(group.members, numbers, strict=True) if its != mine]
    if others:
        raise UserError(
            f"{option} must be the same on every rank; those of ranks {others} differ from "
            f"{here} here"
        )


def hosts_of(everyones: Callable[[int], Sequence[int]]) -> Hosts:
    """The processes of each host, found by what they share, as `levels_between` does.

    Args:
        everyones: brings a number of every process to all.

    Returns:
        The same on every process.
    """
    return _by_machine(everyones(this_machine()))


def _name_hosts(group: Group, host_of: Mapping[int, int]) -> Group:
    """Lets errors say on which host a process is, by its global rank."""
    group.names = [
        f"{name} on host {host_of[member]}"
        for name, member in zip(group.names, group.members, strict=True)
    ]
    return group


def _by_machine(machines: Sequence[int]) -> Hosts:
    """Processes that share a machine.

    Returns:
        Those of each machine.

    >>> _by_machine([7, 7, 5, 7])
    ((0, 1, 3), (2,))
    """
    return tuple(
        tuple(p for p, its in enumerate(machines) if its == machine)
        for machine in dict.fromkeys(machines)
    )


def _by_rank(hosts: Sequence[Sequence[int]], members: Sequence[int]) -> Hosts:
    """Processes of hosts whose ranks are given.

    Returns:
        Those of each host.

    Raises:
        UserError: if one is missing, or named twice.

    >>> _by_rank([[0, 1], [2, 3]], members=[1, 2, 3])
    ((0,), (1, 2))
    """
    places = {rank: p for p, rank in enumerate(members)}
    found = tuple(tuple(places[rank] for rank in ranks if rank in places) for ranks in hosts)
    if sorted(p for own in found for p in own) != list(places.values()):
        raise UserError(
            f"hosts must name each of the ranks {list(members)} once, got "
            f"{[list(ranks) for ranks in hosts]}"
        )
    return tuple(own for own in found if own)


def _inside(group: Group, machines: Sequence[int], *, willing: bool) -> Carrier:
    """The carrier of processes of one host."""
    meet = partial(group.everyone, purpose="try shared memory")
    one_machine = len(set(machines)) == 1
    if willing and one_machine and is_shared(meet):
        return Mailboxes(group)
    return Sockets(group) if one_machine else _between(group)


def _between(group: Group) -> Carrier:
    """The carrier of processes on different hosts."""
    group.in_step = group.device.type == "cpu"
    return Sockets(group)


def this_machine() -> int:
    """A number for what processes share if they reach each other without a network."""
    boot, network = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/net")
    if boot.exists() and network.exists():
        name = f"{boot.read_text(encoding='ascii')}{network.stat().st_ino}"
    else:
        name = f"{uuid.getnode()}"
    return _number(name)


def _number(text: str) -> int:
    """A number that stands for a text."""
    return int.from_bytes(sha256(text.encode()).digest()[:7])
