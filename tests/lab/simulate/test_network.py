"""The modelled network, against the formulas."""

import pytest

from grawa.errors import UserError
from grawa.lab.simulate.network import Link, Network, Topology

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
