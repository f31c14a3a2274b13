"""The modelled network, against the formulas."""

import re
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grawa.errors import UserError
from grawa.lab.simulate.network import (
    NO_TIME,
    HostNetwork,
    Link,
    Network,
    Topology,
    network_of,
    parse_hosts,
)

LINK = Link(1000.0, 0.5)


@pytest.mark.parametrize(
    ("text", "bandwidth", "latency"),
    [
        ("100mbit:20ms", 12.5e6, 0.02),
        ("1gbit", 125e6, 0.0),
        ("2.5gbit:50us", 312.5e6, 5e-5),
        ("64kbit:1s", 8e3, 1.0),
    ],
)
def test_links_are_read(text: str, bandwidth: float, latency: float) -> None:
    link = Link.parse(text)
    assert (link.bandwidth, link.latency) == pytest.approx((bandwidth, latency))


@given(st.floats(1.0, 1e15), st.just(0.0) | st.floats(1e-9, 1e4))
def test_links_are_written_as_they_are_read(bandwidth: float, latency: float) -> None:
    text = str(Link(bandwidth, latency))
    link = Link.parse(text)
    assert (link.bandwidth, link.latency) == pytest.approx((bandwidth, latency), rel=0.006)
    assert str(link) == text


@pytest.mark.parametrize(
    ("network", "options"),
    [
        (Network(Link(12.5e6, 0.02), "ring", 4), "--workers 4 --topology ring --link 100mbit:20ms"),
        (
            HostNetwork(Link(24.75e6, 3e-4), "mesh", 8, 2, Link(2.5e9, 1.5e-5)),
            "--hosts 2x4 --topology mesh --link 198mbit:300us --inner-link 20gbit:15us",
        ),
        (
            HostNetwork(Link(125e6, 0.0), "star", 6, 3, NO_TIME),
            "--hosts 3x2 --topology star --link 1gbit",
        ),
    ],
    ids=str,
)
def test_a_network_is_written_as_options_of_a_plan(network: Network, options: str) -> None:
    assert network.options == options
    words = options.split()
    given_ = dict(zip(words[::2], words[1::2], strict=True))
    inner = given_.get("--inner-link")
    hosts = given_.get("--hosts")
    topology: Topology = given_["--topology"]  # type: ignore[assignment]
    workers = prod(parse_hosts(hosts)) if hosts else int(given_["--workers"])
    read = network_of(
        Link.parse(given_["--link"]), topology, workers, hosts, Link.parse(inner) if inner else None
    )
    assert read.gather_seconds(100) == pytest.approx(network.gather_seconds(100))
    assert read.mean_seconds(2000) == pytest.approx(network.mean_seconds(2000))


@pytest.mark.parametrize("text", ["5", "", "abc:1ms", "-1mbit", "100mbit:20", "0mbit", "1mbit:"])
def test_what_is_not_a_link_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="link"):
        Link.parse(text)


@pytest.mark.parametrize(
    ("topology", "gather", "mean"),
    [
        ("ring", 3 * (0.5 + 0.1), 6 * 0.5 + 1.5 * 2.0),
        ("mesh", 0.5 + 3 * 0.1, 2 * 0.5 + 1.5 * 2.0),
        ("star", 2 * 0.5 + 20 * 0.1, 2 * 0.5 + 2 * 4 * 2.0),
    ],
)
def test_collectives_take_what_the_formulas_say(
    topology: Topology, gather: float, mean: float
) -> None:
    network = Network(LINK, topology, 4)
    assert network.gather_seconds(100) == pytest.approx(gather)
    assert network.mean_seconds(2000) == pytest.approx(mean)


@pytest.mark.parametrize("topology", ["ring", "mesh", "star"])
def test_one_worker_talks_to_nobody(topology: Topology) -> None:
    network = Network(LINK, topology, 1)
    assert not network.gather_seconds(100)
    assert not network.mean_seconds(2000)


def test_hosts_exchange_what_their_workers_have_agreed_on() -> None:
    network = HostNetwork(LINK, "mesh", 4, hosts=2, inner=Link(1e5, 0.01))
    inside = 2 * 0.01 + 2000 / 1e5
    assert network.mean_seconds(2000) == pytest.approx(inside + 2 * 0.5 + 2000 / 1000)
    assert network.leader_seconds(2000) == pytest.approx(inside + 2 * 0.5 + 2000 / 1000)
    gathered = 0.01 + 100 / 1e5
    handed_out = 0.01 + 400 / 1e5
    assert network.gather_seconds(100) == pytest.approx(gathered + 0.5 + 0.2 + handed_out)


@pytest.mark.parametrize("topology", ["ring", "mesh", "star"])
def test_hosts_of_one_worker_are_workers(topology: Topology) -> None:
    network = HostNetwork(LINK, topology, 4, hosts=4, inner=Link(1e5, 0.01))
    flat = Network(LINK, topology, 4)
    assert network.gather_seconds(100) == pytest.approx(flat.gather_seconds(100))
    assert network.mean_seconds(2000) == pytest.approx(flat.mean_seconds(2000))
    assert network.leader_seconds(2000) == pytest.approx(flat.leader_seconds(2000))


def test_teams_lie_inside_hosts_or_on_several_of_them() -> None:
    inner = Link(1e5, 0.01)
    network = HostNetwork(LINK, "ring", 8, hosts=2, inner=inner)
    assert network.team(2) == Network(inner, "mesh", 2)
    assert network.team(4) == Network(inner, "mesh", 4)
    assert network.team(8) == network
    four = HostNetwork(LINK, "ring", 12, hosts=4, inner=inner)
    assert four.team(6) == HostNetwork(LINK, "ring", 6, hosts=2, inner=inner)
    assert four.team(2) == Network(LINK, "ring", 2)  # some teams are on two hosts


@pytest.mark.parametrize(
    ("hosts", "inner", "message"),
    [
        ("2x3", None, "2x3 hosts have 6 workers, not 8"),
        ("2*4", None, "write hosts as"),
        ("0x8", None, "write hosts as"),
        (None, Link(1.0, 0.0), "give --hosts too"),
    ],
)
def test_hosts_that_do_not_fit_are_refused(
    hosts: str | None, inner: Link | None, message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        network_of(LINK, "ring", 8, hosts, inner)
