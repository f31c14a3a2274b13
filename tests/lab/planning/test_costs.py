"""What is planned from numbers alone, against what can be worked out by hand."""

import pytest

from grawa.lab.planning.costs import given
from grawa.lab.planning.predict import Variant, predict, smallest_tau
from grawa.lab.simulate.network import HostNetwork, Link, Network
from grawa.strategies import LGRAWA, LSGD, DataParallel, LocalSGD

STRATEGIES = {"lgrawa": LGRAWA(), "local_sgd": LocalSGD(), "lsgd": LSGD(), "ddp": DataParallel()}


def test_a_round_takes_its_messages_alone() -> None:
    # 124M float32 parameters: a ring of four sends 6/4 of 496 MB, a leader 5/3, at 125 MB/s; six
    # messages of a mean and three of the report before it, 1 ms each.
    network = Network(Link.parse("1gbit:1ms"), "ring", 4)
    plan = given(124_000_000, 4.0, 0.3, STRATEGIES, network)
    rounds = {m.name: predict(plan, m, Variant(), 1).round_seconds for m in plan.methods}
    mean = 1.5 * 0.496 / 0.125 + 0.009
    assert rounds == pytest.approx(
        {"lgrawa": mean, "local_sgd": mean, "lsgd": 5 / 3 * 0.496 / 0.125 + 0.009, "ddp": mean},
        rel=1e-6,
    )
    assert not plan.with_averaging
    assert plan.full_speed is None
    lgrawa = plan.methods[0]
    found = [smallest_tau(plan, lgrawa, variant, 0.05) for variant in (
        Variant(), Variant(overlap=True), Variant(comm_dtype="int8"),
        Variant(overlap=True, comm_dtype="int8"),
    )]  # fmt: skip
    # 19 x 5.961 / 0.3 = 377.5; (5.961 + 0.3) / (0.3 x 1.0526) = 19.8; a quarter of the bytes.
    assert found == [378, 20, 95, 6]


def test_half_as_wide_parameters_take_half_as_long() -> None:
    network = HostNetwork(Link(1e6, 0.0), "mesh", 8, hosts=2, inner=Link(1e7, 0.0))
    wide, narrow = (
        given(10**6, width, 0.1, STRATEGIES, network, samples=16).methods for width in (4.0, 2.0)
    )
    assert wide == narrow
    plan = given(10**6, 2.0, 0.1, STRATEGIES, network, samples=16)
    # Inside, 6/4 of 2 MB at 10 MB/s; a host sends and receives all of it at 1 MB/s.
    found = predict(plan, plan.methods[1], Variant(), 32).round_seconds
    assert found == pytest.approx(0.3 + 2.0, rel=1e-3)
    assert plan.full_speed == pytest.approx(8 * 16 / 0.1)
