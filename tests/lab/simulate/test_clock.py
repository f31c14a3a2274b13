"""Modelled time, against what can be worked out by hand."""

import statistics
from typing import Any

import pytest

import grawa
from grawa.comm import InProcessCommunicator
from grawa.lab.simulate.clock import VirtualClock
from grawa.lab.simulate.network import Link
from tests.helpers import Fleet, Simulated, batches

LINK = Link(1000.0, 0.5)


def trained(
    strategy: grawa.Strategy, steps: int, clock: VirtualClock, **options: Any
) -> list[grawa.RoundReport]:
    simulated = Simulated(Fleet(4), strategy, clock, **options)
    simulated.train(batches(steps, 4))
    return simulated.reports


def round_seconds() -> float:
    """On a ring: 50 parameters in float64, and a gather of 12 numbers."""
    mean = 6 * 0.5 + 1.5 * 50 * 8 / 1000.0
    gather = 3 * (0.5 + 12 * 8 / 1000.0)
    return mean + gather


def test_a_blocking_round_waits_for_the_slowest_and_takes_its_messages_time() -> None:
    clock = VirtualClock(1.0, speeds=[1.0, 1.0, 1.0, 0.5], link=LINK)
    (report,) = trained(grawa.LocalSGD(), 4, clock, sync_every=4)
    assert clock.times == pytest.approx([8.0 + round_seconds()] * 4)
    assert report.elapsed == pytest.approx(5.0)  # the mean of 4, 4, 4 and 8
    assert report.compute_seconds == pytest.approx(5.0)
    assert report.wait_seconds == pytest.approx(3.0)
    assert report.round_seconds == pytest.approx(3.0 + round_seconds())
    assert report.exposed_seconds == pytest.approx(report.round_seconds)


def test_finding_out_scores_takes_a_worker_time_once_a_round() -> None:
    clock = VirtualClock(1.0, score_time=0.5, speeds=[1.0, 1.0, 1.0, 0.5])
    reports = trained(grawa.LocalSGD(), 8, clock, sync_every=4)
    assert clock.times == pytest.approx([2 * (8.0 + 1.0)] * 4)
    assert reports[0].round_seconds == pytest.approx(9.0 - 5.0)


@pytest.mark.parametrize("step", [1.0, 5.0])
def test_an_overlapped_round_holds_up_only_what_steps_do_not_hide(step: float) -> None:
    clock = VirtualClock(step, link=LINK)
    (report,) = trained(grawa.LocalSGD(), 6, clock, sync_every=4, overlap_steps=2)
    exposed = max(0.0, round_seconds() - 2 * step)
    assert report.exposed_seconds == pytest.approx(exposed, abs=1e-9)
    assert clock.now() == pytest.approx(6 * step + exposed)


def test_fragments_share_the_line_one_after_the_other() -> None:
    clock = VirtualClock(1.0, link=LINK)
    reports = trained(grawa.LocalSGD(), 8, clock, sync_every=8, fragments=2)
    assert len(reports) == 2
    gathers = 2 * 3 * (0.5 + 12 * 8 / 1000.0)
    # The fragments are 24 + 8 and 16 + 2 parameters.
    sent = 8 * 1.5 * (32 + 18)
    assert clock.now() == pytest.approx(8.0 + gathers + 2 * 6 * 0.5 + sent / 1000.0)


def test_shared_gradients_take_their_time_too() -> None:
    clock = VirtualClock(1.0, link=LINK)
    trained(grawa.DataParallel(), 3, clock, sync_every=100)
    assert clock.now() > 3 * (1.0 + 6 * 0.5)


def test_what_is_measured_for_its_own_sake_takes_no_time() -> None:
    clock = VirtualClock(1.0, link=LINK)
    engine = Simulated(Fleet(4), grawa.LocalSGD(), clock).engine
    engine.consensus()
    engine.synchronize()
    assert clock.now() == pytest.approx(round_seconds())


def test_jitter_has_the_mean_and_the_spread_that_were_asked_for() -> None:
    clock = VirtualClock(1.0, jitter=0.2, seed=1)
    clock.meter(InProcessCommunicator(1))
    lengths = []
    for _ in range(4000):
        before = clock.now()
        clock.stepped(slice(None))
        lengths.append(clock.now() - before)
    assert statistics.mean(lengths) == pytest.approx(1.0, abs=0.02)
    assert statistics.stdev(lengths) == pytest.approx(0.2, abs=0.02)


def test_time_goes_on_from_a_saved_state() -> None:
    one, other = VirtualClock(1.0, jitter=0.3), VirtualClock(1.0, jitter=0.3, seed=5)
    for clock in (one, other):
        clock.meter(InProcessCommunicator(2))
    one.stepped(slice(None))
    other.load_state_dict(one.state_dict())
    for clock in (one, other):
        clock.stepped(slice(None))
    assert one.times == other.times
