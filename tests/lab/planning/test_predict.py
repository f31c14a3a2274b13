"""Predictions, against what can be worked out by hand, and what must hold whatever the numbers."""

from contextlib import nullcontext
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD

from grawa.lab.cli import names
from grawa.lab.planning.measure import Subject, measure
from grawa.lab.planning.predict import (
    VARIANTS,
    Measured,
    Method,
    Variant,
    predict,
    scaled,
    smallest_tau,
)
from grawa.lab.simulate.network import HostNetwork, Link, Network

MGRAWA = Method(
    name="mgrawa",
    round_work=0.05,
    sent_share=1.5,
    busiest_share=1.5,
    shares_gradients=False,
    row_length=0,
    codec_seconds={"int8": 0.25},
)
TAUS = tuple(2**i for i in range(10))
PARALLEL = replace(MGRAWA, name="data_parallel", round_work=0.0, shares_gradients=True)

MEASURED = Measured(
    step_seconds=0.1,
    samples=32,
    model_bytes=4e6,
    copy_seconds=0.01,
    network=Network(Link(1e6, 0.0), "ring", 4),
    methods=(MGRAWA, PARALLEL),
)
"""A round sends 6 MB at 1 MB/s: six seconds, and 0.05 of work."""


def test_a_blocking_round_is_lost_whole() -> None:
    found = predict(MEASURED, MGRAWA, Variant(), 32)
    assert found.round_seconds == pytest.approx(6.05)
    assert found.lost == pytest.approx(6.05 / 9.25)
    assert found.speed == pytest.approx(3.2 / 9.25)
    assert MEASURED.full_speed == pytest.approx(4 * 32 / 0.1)
    assert found.bytes_per_hour == pytest.approx(6e6 / 9.25 * 3600)


def test_a_hosts_link_is_what_a_round_waits_for() -> None:
    network = HostNetwork(Link(1e6, 0.5), "mesh", 8, hosts=2, inner=Link(1e9, 0.0))
    mean = replace(MGRAWA, busiest_share=1.0)  # 2(H-1)/H models leave a host
    found = predict(replace(MEASURED, network=network), mean, Variant(), 32)
    gathering = 0.5  # empty rows, one latency
    assert found.round_seconds == pytest.approx(0.05 + 2 * 0.5 + 4.0 + 0.006 + gathering)


@pytest.mark.parametrize(("name", "models"), [("mgrawa", 1.0), ("lsgd", 1.0), ("easgd", 1.0)])
def test_what_the_busiest_link_carries_is_measured_for_hosts(name: str, models: float) -> None:
    network = HostNetwork(Link(1e6, 0.0), "ring", 8, hosts=2, inner=Link(1e9, 0.0))
    found = measure_method(name, network)
    assert found.busiest_share == pytest.approx(models)
    flat = measure_method(name, Network(Link(1e6, 0.0), "ring", 8))
    assert flat.busiest_share == pytest.approx(1 + 6 / 7 if name == "lsgd" else 2 * 7 / 8)


def measure_method(name: str, network: Network) -> Method:
    """What the planner measures of a method."""
    weight = nn.Linear(3, 2)
    subject = Subject(
        model=weight, optimizer=SGD(weight.parameters(), lr=0.1), step=lambda: None, samples=1
    )
    measured = measure(
        subject, {name: names.strategy(name)}, network, lambda _: nullcontext(), least_seconds=0.0
    )
    return measured.methods[0]


def test_overlap_hides_all_steps_but_one() -> None:
    found = predict(MEASURED, MGRAWA, Variant(overlap=True), 32)
    assert found.lost == pytest.approx((6.05 - 3.1 + 0.03) / (3.2 + 6.05 - 3.1 + 0.03))
    assert predict(MEASURED, MGRAWA, Variant(overlap=True), 64).lost == pytest.approx(0.03 / 6.43)


@pytest.mark.parametrize(("dtype", "seconds"), [("int8", 1.5 + 0.05 + 0.25), ("bf16", 3.05)])
def test_fewer_bits_take_less_to_send_and_some_time_to_write(dtype: str, seconds: float) -> None:
    found = predict(MEASURED, MGRAWA, Variant(comm_dtype=dtype), 32)
    assert found.round_seconds == pytest.approx(seconds)


def test_each_worker_of_a_host_encodes_a_section() -> None:
    network = HostNetwork(Link(1e6, 0.0), "mesh", 8, hosts=2, inner=Link(1e9, 0.0))
    mean = replace(MGRAWA, busiest_share=1.0)
    found = predict(replace(MEASURED, network=network), mean, Variant(comm_dtype="int8"), 32)
    inside = 2 * 3 / 4 * 4e6 / 1e9  # in float32
    assert found.round_seconds == pytest.approx(0.05 + 0.25 / 4 + inside + 1.0)


def test_data_parallel_talks_at_every_step() -> None:
    slow, fast = (predict(MEASURED, PARALLEL, Variant(), tau) for tau in (1, 512))
    assert slow == fast
    assert slow.speed == pytest.approx(0.1 / 6.1)
    assert smallest_tau(MEASURED, PARALLEL, Variant(), 0.5) is None


def test_data_parallel_can_hide_its_messages_behind_the_backward_pass_alone() -> None:
    fast = replace(MEASURED, network=Network(Link(6e7, 0.0), "ring", 4))  # a tenth of a second
    slow, behind = (predict(fast, PARALLEL, Variant(overlap=o), 1).speed for o in (False, True))
    assert slow == pytest.approx(1 / 2)
    assert behind == pytest.approx(3 / 4)


@pytest.mark.parametrize(("dtype", "own", "sent"), [
    ("same", 2.0, 3e6), ("bf16", 2.0, 3e6), ("int8", 2.0, 1.5e6), ("bf16", 4.0, 3e6),
    ("topk", 4.0, 1.5 * 776 / 4096 * 1e6),
])  # fmt: skip
def test_a_million_parameters_take_their_bytes_on_the_link(
    dtype: str, own: float, sent: float
) -> None:
    measured = replace(MEASURED, model_bytes=own * 1e6, parameter_bytes=own)
    method = replace(MGRAWA, round_work=0.0, codec_seconds={})
    assert measured.parameters == pytest.approx(1e6)
    found = predict(measured, method, Variant(comm_dtype=dtype), 8)
    assert found.round_seconds == pytest.approx(sent / 1e6)


def test_the_smallest_interval_is_the_first_that_fits() -> None:
    # 6.05 / (0.1 tau + 6.05) <= 0.2 from tau = 242 on, and <= 0.05 from 1149.5 on.
    assert smallest_tau(MEASURED, MGRAWA, Variant(), 0.2) == 242
    assert smallest_tau(MEASURED, MGRAWA, Variant(), 0.05) == 1150
    # 9.05 - 0.1 tau + 0.13 is blocked of 6.18: at most 0.05 from 58.7 on.
    assert smallest_tau(MEASURED, MGRAWA, Variant(overlap=True), 0.05) == 59
    slow = replace(MEASURED, network=Network(Link(1e3, 0.0), "ring", 4))
    assert smallest_tau(slow, MGRAWA, Variant(), 0.05) == 1_140_010


def test_no_interval_is_long_enough_for_a_round_that_never_ends() -> None:
    stuck = replace(MEASURED, network=Network(Link(1e-320, 0.0), "ring", 4))
    assert smallest_tau(stuck, MGRAWA, Variant(), 0.99) is None
    assert predict(stuck, MGRAWA, Variant(), 512).lost >= 1.0


def test_more_workers_send_nearly_twice_the_model_at_most() -> None:
    assert scaled(MEASURED, 4).methods[0].sent_share == pytest.approx(1.5)
    assert scaled(MEASURED, 8).methods[0].sent_share == pytest.approx(1.75)
    assert scaled(MEASURED, 4096).methods[0].sent_share == pytest.approx(2.0, abs=1e-3)


measured = st.builds(
    lambda step, size, bandwidth, latency, work: replace(
        MEASURED,
        step_seconds=step,
        model_bytes=size,
        network=Network(Link(bandwidth, latency), "ring", 4),
        methods=(replace(MGRAWA, round_work=work),),
    ),
    st.floats(1e-4, 10.0),
    st.floats(1e3, 1e10),
    st.floats(1e4, 1e11),
    st.floats(0.0, 1.0),
    st.floats(0.0, 1.0),
)


@given(measured, st.sampled_from(VARIANTS), st.sampled_from(TAUS[:-1]))
def test_rarer_rounds_never_lose_more(given_: Measured, variant: Variant, tau: int) -> None:
    method = given_.methods[0]
    rare, often = (predict(given_, method, variant, t) for t in (2 * tau, tau))
    assert rare.lost <= often.lost * (1 + 1e-9)
    assert rare.speed >= often.speed * (1 - 1e-9)


@given(st.sampled_from(VARIANTS), st.floats(0.02, 0.9), st.floats(1e-3, 6.0), st.floats(0.0, 0.5))
def test_the_smallest_interval_is_what_trying_one_after_another_finds(
    variant: Variant, most_lost: float, work: float, copy: float
) -> None:
    # Messages of at most ten steps, work of at most 60 and copies of at most five.
    quick = replace(MEASURED, network=Network(Link(6e6, 0.0), "ring", 4), copy_seconds=copy)
    method = replace(MGRAWA, round_work=work)
    found = smallest_tau(quick, method, variant, most_lost)
    tried = (tau for tau in count(1) if predict(quick, method, variant, tau).lost <= most_lost)
    assert found == next(tried)


@given(measured, st.sampled_from(VARIANTS), st.sampled_from(TAUS))
def test_a_faster_link_is_never_slower(given_: Measured, variant: Variant, tau: int) -> None:
    method, link = given_.methods[0], given_.network.link
    faster = replace(
        given_, network=replace(given_.network, link=Link(2 * link.bandwidth, link.latency))
    )
    one, other = (predict(m, method, variant, tau).speed for m in (faster, given_))
    assert one >= other * (1 - 1e-9)


@given(measured, st.sampled_from(TAUS))
def test_overlap_is_never_slower_than_blocking(given_: Measured, tau: int) -> None:
    method = given_.methods[0]
    hidden, blocking = (predict(given_, method, Variant(overlap=o), tau) for o in (True, False))
    assert hidden.speed >= blocking.speed * (1 - 1e-9)
