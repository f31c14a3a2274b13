"""Links that are measured between processes, and what these must agree on."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, get_args
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from grawa.comm.compression import Compression
from grawa.errors import UserError
from grawa.lab.planning.coding import CodecProbe
from grawa.lab.planning.links import Hosts, find_hosts, measure_network
from grawa.lab.planning.measure import Subject, measure
from grawa.lab.planning.probe import EXCHANGE_SECONDS, LinkProbe
from grawa.lab.simulate.network import HostNetwork, Link, Network
from grawa.lab.together import check_same, on_all
from grawa.math.codec import Precision
from tests.world import on_ranks, outcomes


class SlowTransport:
    """Two hosts' transport, over a link that it shares with others, in a time of its own.

    Args:
        link: of a host.
        sharing: how many such transports send over it at the same time.
        encoding: seconds for each number that travels in fewer bits.
    """

    num_workers = 2

    def __init__(self, link: Link, sharing: int, encoding: float = 0.0) -> None:
        self.now = 0.0
        self.released = False
        self._link, self._sharing, self._encoding = link, sharing, encoding

    def gather(self, rows: Tensor) -> Callable[[], Tensor]:
        self.now += self._link.latency
        return lambda: rows

    def weighted_mean(
        self,
        rows: dict[str, Tensor],
        weights: Tensor,
        out: object = None,
        compression: Compression | None = None,
    ) -> None:
        numbers = sum(row.numel() for row in rows.values())
        width = 4
        if compression is not None:
            width = 1 if compression.precision == "int8" else 2
            self.now += self._encoding * numbers
        all_bytes = self._sharing * numbers * width
        self.now += 2 * self._link.latency + all_bytes / self._link.bandwidth

    def release(self) -> None:
        self.released = True


@pytest.mark.parametrize("sharing", [1, 2, 4])
def test_the_link_of_a_host_is_measured_and_not_a_process_s_share(sharing: int) -> None:
    link = Link(12.5e6, 0.01)
    comm: Any = SlowTransport(link, sharing)
    with patch("time.perf_counter", lambda: comm.now):
        found = LinkProbe(comm, torch.device("cpu"), sharing=sharing).link(EXCHANGE_SECONDS)
    assert (found.bandwidth, found.latency) == pytest.approx((12.5e6, 0.01), rel=1e-4)


@pytest.mark.parametrize("sizes", [[100], [3_000_000, 1_000_000, 7]])
def test_the_time_of_encoding_is_what_a_mean_takes_longer_than_its_messages(
    sizes: list[int],
) -> None:
    link = Link(12.5e6, 0.01)
    comm: Any = SlowTransport(link, 1, encoding=1e-8)
    network = Network(link, "mesh", 2)
    with (
        patch("grawa.lab.planning.coding.DistributedCommunicator", lambda **_: comm),
        patch("time.perf_counter", lambda: comm.now),
    ):
        probe = CodecProbe([[0], [1]], network, 1.0, sizes, torch.device("cpu"), EXCHANGE_SECONDS)
        found = [probe.seconds(precision) for precision in get_args(Precision)]
        probe.close()
    assert found == pytest.approx([1e-8 * sum(sizes)] * 2, rel=1e-3)
    assert comm.released


def encoding(hosts: Hosts) -> Mapping[str, float]:
    """What encoding adds between the processes of the test."""
    model = torch.nn.Linear(700, 700)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    subject = Subject(model=model, optimizer=optimizer, step=lambda: None, samples=1)
    show = nullcontext[None]()
    found = measure(subject, {}, hosts, lambda _: show, least_seconds=0.0)
    return found.codec_seconds


@pytest.mark.world
def test_encoding_is_timed_between_the_processes_themselves() -> None:
    found = on_ranks(4, encoding, [[0, 1], [2, 3]])
    assert all(codecs == found[0] for codecs in found)
    assert set(found[0]) == {"bf16", "int8"}
    assert found[0]["int8"] > 0.0


def measured(hosts: Hosts | None, machines: tuple[int, ...] | None = None) -> Network:
    """The network between the processes of the test."""
    ranks = range(dist.get_world_size())
    with patch("grawa.comm.hosts._machine", lambda: (machines or ranks)[dist.get_rank()]):
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
