"""Measures the links between processes: those inside hosts, and those between them."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
import torch.distributed as dist

from grawa.comm import DistributedCommunicator
from grawa.comm.hosts import hosts_of
from grawa.errors import UserError
from grawa.lab.planning.probe import EXCHANGE_SECONDS, LinkProbe
from grawa.lab.simulate.network import HostNetwork, Network
from grawa.lab.together import everyones, is_one_of_many

Progress = Callable[[str], AbstractContextManager[object]]
"""A context that shows what is being measured."""

Hosts = Sequence[Sequence[int]]
"""The ranks of each host."""


def find_hosts(hosts: Hosts | None = None) -> Hosts:
    """The ranks of each host, if a network can be measured between them; collective.

    Args:
        hosts: these; `None` to find out which processes share a machine and its network.

    Returns:
        The same on every process.

    Raises:
        UserError: if there is only one process, or hosts have different numbers of them.
    """
    if not is_one_of_many():
        raise UserError(
            "a link can only be measured between several processes: give --link, such as "
            "100mbit:20ms, or start this command with torchrun"
        )
    found = hosts_of(lambda own: everyones(own, "find hosts")) if hosts is None else hosts
    sizes = [len(ranks) for ranks in found]
    if len(set(sizes)) > 1:
        raise UserError(
            f"a plan needs equally many processes on each host, and {len(sizes)} hosts have "
            f"{', '.join(map(str, sizes))}: start as many on each, or give --hosts and --link"
        )
    return found


def measure_network(
    hosts: Hosts,
    device: torch.device,
    show: Progress,
    exchange_seconds: float = EXCHANGE_SECONDS,
) -> Network:
    """Measures the link inside hosts, and that between them, by what rounds do; collective.

    Inside, the processes of a host exchange, on all hosts at once. Between hosts, the processes of
    the same place on all hosts do, for all places at once, and wait for each other inside their
    host after each exchange, as in a round: so the bandwidth is a host's, not that of a process.
    Latencies are those of many small messages, between hosts by the first process of each. The
    slowest process counts.

    Args:
        hosts: from `find_hosts`.
        device: where the parameters live.
        show: shows progress.
        exchange_seconds: of an exchange that is timed, of which at least six are made.

    Returns:
        A mesh that would take the same times: of hosts, or of processes if all share a host or
        none does.
    """
    rank = dist.get_rank()
    mine = next(ranks for ranks in hosts if rank in ranks)
    count, each, place = len(hosts), len(mine), list(mine).index(rank)
    inside = _between(mine, hosts, device)
    inner = None
    if inside is not None:
        with show("the link inside hosts" if count > 1 else "the link"):
            inner = LinkProbe(inside, device).link(exchange_seconds)
    across = _between([ranks[place] for ranks in hosts], hosts, device)
    link = None
    if across is not None:
        with show("the link between hosts" if each > 1 else "the link"):
            link = LinkProbe(across, device, inside, place, each).link(exchange_seconds)
    for comm in (inside, across):
        if comm is not None:
            comm.release()
    if inner is not None and link is not None:
        return HostNetwork(link, "mesh", count * each, count, inner)
    only = inner or link
    assert only is not None, "there are several processes"
    return Network(only, "mesh", count * each)


def _between(
    ranks: Sequence[int], hosts: Hosts, device: torch.device
) -> DistributedCommunicator | None:
    """A transport between these ranks, as rounds have it; `None` for one alone."""
    if len(ranks) == 1:
        return None
    return DistributedCommunicator(ranks, device=device, hosts=hosts)
