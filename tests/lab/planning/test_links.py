"""Links that are measured between processes, and what these must agree on."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from grawa.errors import UserError
from grawa.lab.planning.links import Hosts, find_hosts, measure_network
from grawa.lab.planning.probe import EXCHANGE_SECONDS, LinkProbe
from grawa.lab.simulate.network import HostNetwork, Link, Network
from grawa.lab.together import check_same, on_all
from tests.world import on_ranks, outcomes


class SlowTransport:
    """Two hosts' transport, over a link that it shares with others, in a time of its own.

    Args:
        link: of a host.
        sharing: how many such transports send over it at the same time.
    """

    num_workers = 2

    def __init__(self, link: Link, sharing: int) -> None:
        self.now = 0.0
        self._link, self._sharing = link, sharing

    def gather(self, rows: Tensor) -> Callable[[], Tensor]:
        self.now += self._link.latency
        return lambda: rows

    def weighted_mean(self, rows: dict[str, Tensor], *_: object) -> None:
        all_bytes = self._sharing * rows["x"].nbytes
        self.now += 2 * self._link.latency + all_bytes / self._link.bandwidth


@pytest.mark.parametrize("sharing", [1, 2, 4])
def test_the_link_of_a_host_is_measured_and_not_a_process_s_share(sharing: int) -> None:
    link = Link(12.5e6, 0.01)
    comm: Any = SlowTransport(link, sharing)
    with patch("time.perf_counter", lambda: comm.now):
        found = LinkProbe(comm, torch.device("cpu"), sharing=sharing).link(EXCHANGE_SECONDS)
    assert (found.bandwidth, found.latency) == pytest.approx((12.5e6, 0.01), rel=1e-4)


def measured(hosts: Hosts | None, machines: tuple[int, ...] | None = None) -> Network:
    """The network between the processes of the test."""
    ranks = range(dist.get_world_size())
    with patch("grawa.comm.hosts.this_machine", lambda: (machines or ranks)[dist.get_rank()]):
        shown: list[str] = []

        def show(text: str) -> nullcontext[None]:
            shown.append(text)
            return nullcontext()

        network = measure_network(find_hosts(hosts), torch.device("cpu"), show, 0.0)
    two = isinstance(network, HostNetwork)
    assert shown == (["the link inside hosts", "the link between hosts"] if two else ["the link"])
    return network


@pytest.mark.world
def test_both_links_are_measured_where_some_processes_share_a_host() -> None:
    given = on_ranks(4, measured, [[0, 1], [2, 3]])
    found = on_ranks(4, measured, None, (7, 5, 7, 5))
    for networks in (given, found):
        assert all(network == networks[0] for network in networks)
        assert isinstance(networks[0], HostNetwork)
        assert (networks[0].hosts, networks[0].num_workers, networks[0].topology) == (2, 4, "mesh")


@pytest.mark.world
@pytest.mark.parametrize("hosts", [[[0, 1, 2, 3]], [[0], [1], [2], [3]]], ids=str)
def test_one_link_is_measured_where_all_share_a_host_or_none_do(hosts: Hosts) -> None:
    networks = on_ranks(4, measured, hosts)
    assert all(network == networks[0] for network in networks)
    assert type(networks[0]) is Network
    assert (networks[0].num_workers, networks[0].topology) == (4, "mesh")


@pytest.mark.world
def test_hosts_with_different_numbers_of_processes_are_refused_on_every_rank() -> None:
    for outcome in outcomes(4, measured, None, (1, 1, 1, 2)):
        assert isinstance(outcome, UserError)
        assert "equally many processes on each host, and 2 hosts have 3, 1" in str(outcome)


def test_one_process_has_no_link() -> None:
    with pytest.raises(UserError, match="between several processes: give --link"):
        find_hosts()


def wrong_on_rank_1() -> int:
    def make() -> int:
        if dist.get_rank() == 1:
            raise UserError("there is no such file")
        return dist.get_rank()

    return on_all(make)


def different_on_rank_1() -> None:
    check_same(dist.get_rank() == 1, "options")


@pytest.mark.world
def test_what_is_wrong_on_one_rank_is_an_error_of_all_that_names_it() -> None:
    for wrong in outcomes(2, wrong_on_rank_1):
        assert isinstance(wrong, UserError)
        assert str(wrong) == "rank 1: there is no such file"
    for different in outcomes(2, different_on_rank_1):
        assert isinstance(different, UserError)
        assert "options must be the same on every rank; those of ranks [1] dif" in str(different)
