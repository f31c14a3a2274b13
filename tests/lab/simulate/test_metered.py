"""What messages would take, by the bytes that are sent."""

import pytest
import torch

from grawa.comm import Compression, InProcessCommunicator
from grawa.lab.simulate.metered import Metered
from grawa.lab.simulate.network import Link, Network, Topology

LINK = Link(1000.0, 0.5)
ROWS = {"x": torch.arange(400.0).view(4, 100)}
EQUAL = torch.full((4, 1), 0.25, dtype=torch.float64)


def metered(topology: Topology = "mesh") -> Metered:
    return Metered(InProcessCommunicator(4), Network(LINK, topology, 4))


@pytest.mark.parametrize("topology", ["ring", "mesh", "star"])
def test_a_mean_takes_what_the_closed_form_says(topology: Topology) -> None:
    comm = metered(topology)
    comm.weighted_mean(ROWS, EQUAL)
    assert comm.take_seconds() == pytest.approx(Network(LINK, topology, 4).mean_seconds(400))
    assert not comm.take_seconds()


def test_a_gather_takes_what_the_closed_form_says() -> None:
    comm = metered()
    comm.gather(torch.zeros(4, 3, dtype=torch.float64))()
    assert comm.take_seconds() == pytest.approx(0.5 + 3 * 24 / 1000)


LEADER = torch.tensor([[0.0], [1.0], [0.0], [0.0]], dtype=torch.float64)


def test_a_leader_sends_its_row_once_and_the_others_send_it_on() -> None:
    comm = metered()
    comm.weighted_mean(ROWS, LEADER)
    assert comm.take_seconds() == pytest.approx(1.0 + (1 + 2 / 3) * 400 / 1000)
    # The three others have 34, 34 and 32 of 100 numbers to send to two.
    assert comm.bytes_sent == (400 + 2 * 400) // 4


def test_a_leaders_compressed_row_takes_as_long_as_all() -> None:
    comm = metered()
    compression = Compression("bf16")
    comm.weighted_mean(ROWS, EQUAL, None, compression)
    comm.take_seconds()
    comm.weighted_mean(ROWS, LEADER, None, compression)
    assert comm.take_seconds() == pytest.approx(1.0 + 1.5 * 200 / 1000, rel=0.05)


def test_fewer_bits_take_less() -> None:
    comm = metered()
    compression = Compression("int8")
    comm.weighted_mean(ROWS, EQUAL, None, compression)
    assert comm.take_seconds() == pytest.approx(1.0 + 1.5 * 400 / 1000)
    comm.weighted_mean(ROWS, EQUAL, None, compression)
    # Six parcels of a quarter of the numbers, a scale, and three bytes up to a whole word.
    assert comm.take_seconds() == pytest.approx(1.0 + 6 * (25 + 4 + 3) / 1000)


def test_teams_talk_at_the_same_time() -> None:
    comm = metered()
    for team in comm.split(2):
        team.transport.weighted_mean({"x": ROWS["x"][team.hosted]}, EQUAL[:2])
    assert comm.take_seconds() == pytest.approx(Network(LINK, "mesh", 2).mean_seconds(400))
