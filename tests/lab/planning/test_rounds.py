"""Rounds that are timed to be predicted: alone, and between processes."""

from collections.abc import Sequence
from contextlib import nullcontext
from unittest.mock import patch

import pytest
import torch

from grawa.comm import InProcessCommunicator
from grawa.lab.cli import names
from grawa.lab.planning.measure import Subject, measure
from grawa.lab.planning.predict import Measured
from grawa.lab.planning.rounds import RoundProbe
from grawa.lab.simulate.network import HostNetwork, Link, Network
from grawa.math.codec import Precision, codec_of
from grawa.strategies import LocalSGD
from grawa.strategies.protocol import Strategy
from tests.world import on_ranks

NETWORK = HostNetwork(Link(12.5e6, 0.01), "mesh", 4, hosts=2, inner=Link(1e9, 0.0))
ROW_LENGTH = 12


class Known:
    """Rounds that take so many seconds by a clock of their own."""

    now = 0.0

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def local_step(self) -> None:
        Known.now += 1.0

    def run(self) -> None:
        Known.now += self._seconds


class KnownRounds(RoundProbe):
    """Rounds that take their messages, 10 ns for each number, and 20 for each that is encoded."""

    def _rounds(
        self, numbers: Sequence[int], strategy: Strategy, precision: Precision | None
    ) -> Known:
        count = sum(numbers)
        width = 4 if precision is None else codec_of(precision).num_bytes([2**60]) / 2**60
        sent = NETWORK.busiest_seconds(4.0 * count, width / 4) + NETWORK.gather_seconds(
            8 * ROW_LENGTH
        )
        return Known(sent + 1e-8 * count + (2e-8 * count if precision else 0.0))


@pytest.mark.parametrize("sizes", [[100], [300_000], [3_000_000, 10_000_000, 7]])
@pytest.mark.parametrize(("dtype", "nanoseconds"), [("same", 10), ("bf16", 30), ("topk", 30)])
def test_what_a_round_takes_beside_its_messages_is_that_of_the_whole_model(
    sizes: list[int], dtype: str, nanoseconds: float
) -> None:
    comm = InProcessCommunicator(1)
    with patch("grawa.lab.planning.rounds.DistributedCommunicator", lambda **_: comm):
        probe = KnownRounds(sizes, torch.device("cpu"), NETWORK, [[0, 1], [2, 3]], 0.5)
    Known.now = 0.0
    with patch("time.perf_counter", lambda: Known.now):
        found = probe.seconds(LocalSGD(), 1.0, ROW_LENGTH, dtype)
    assert found == pytest.approx(1e-9 * nanoseconds * sum(sizes), rel=1e-3)
    assert Known.now < 20.0  # however large the model is
    assert found / probe.coded_share == pytest.approx(2 * found)


def test_a_worker_alone_sends_no_messages() -> None:
    alone = RoundProbe([1000, 10], torch.device("cpu"), Network(Link(1.0, 0.0), "mesh", 4), None, 0)
    for dtype in ("same", "bf16", "int8", "topk"):
        assert 0.0 < alone.seconds(LocalSGD(), 1.0, ROW_LENGTH, dtype) < 10.0
    assert alone.coded_share == pytest.approx(1.0)
    alone.close()


def planned(strategies: Sequence[str]) -> Measured:
    """What is measured between the processes of the test, two on each of two hosts."""
    model = torch.nn.Linear(30, 20)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    subject = Subject(model=model, optimizer=optimizer, step=lambda: None, samples=1)
    chosen = {name: names.strategy(name) for name in strategies}
    hosts = [[0, 1], [2, 3]]
    return measure(subject, chosen, hosts, lambda _: nullcontext(), least_seconds=0.0)


@pytest.mark.world
def test_rounds_are_timed_between_the_processes_themselves() -> None:
    every = on_ranks(4, planned, ("lgrawa", "local_sgd", "lsgd", "easgd", "data_parallel"))
    assert all(found == every[0] for found in every)
    methods = {method.name: method for method in every[0].methods}
    assert methods["data_parallel"].round_work == pytest.approx(0.0)
    for method in methods.values():
        assert set(method.codec_seconds) == {"bf16", "int8", "topk"}
    full, leader = methods["lgrawa"].codec_seconds, methods["lsgd"].codec_seconds
    assert methods["local_sgd"].codec_seconds == full
    assert leader is not full
    assert methods["lsgd"].sent_share < methods["lgrawa"].sent_share
