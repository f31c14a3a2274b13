"""Steps counted together: fast workers make more of them, and nobody misses a round."""

import time
from dataclasses import dataclass

import pytest
import torch
import torch.distributed as dist

import grawa
from grawa.lab.simulate.clock import VirtualClock
from tests.helpers import Fleet, Simulated, batches
from tests.world import on_ranks

TAU = 8


@dataclass
class Seen:
    """What one process saw of a training."""

    steps: int
    rounds: list[int]
    steps_made: list[list[float]]
    waited: float
    parameters: torch.Tensor


def train(total: int, overlap_steps: int = 0, fragments: int = 1) -> Seen:
    """Rank 3 takes eight times as long for a step as the others."""
    rank = dist.get_rank()
    data = batches(600, 4).workers([rank])
    fleet = Fleet(1)
    reports: list[grawa.RoundReport] = []
    with grawa.Averager(
        fleet.models,
        fleet.optimizers,
        grawa.LGRAWA(),
        schedule=grawa.SharedCount(TAU),
        overlap_steps=overlap_steps,
        fragments=fragments,
        on_round=[reports.append],
    ) as averager:
        while averager.total_steps < total:
            time.sleep(0.024 if rank == 3 else 0.003)
            fleet.train(data.steps(averager.step, averager.step + 1), averager)
    return Seen(
        steps=averager.step,
        rounds=[report.round for report in reports],
        steps_made=[report.steps_made.tolist() for report in reports],
        waited=sum(report.wait_seconds for report in reports),
        parameters=fleet.parameters(),
    )


@pytest.mark.world
@pytest.mark.parametrize("options", [(0, 1), (3, 1), (1, 2)], ids=["blocking", "overlap", "both"])
def test_everyone_takes_part_in_every_round_once(options: tuple[int, int]) -> None:
    overlap_steps, fragments = options
    found = on_ranks(4, train, 320, overlap_steps, fragments)
    for seen in found:
        assert seen.rounds == list(range(1, len(seen.rounds) + 1))
        assert seen.steps_made == found[0].steps_made
    assert len(found[0].rounds) >= 320 // (4 * TAU) * fragments
    steps = [seen.steps for seen in found]
    assert 320 <= sum(steps) < 320 + 4 * TAU
    assert steps[3] < 0.8 * min(steps[:3])


def test_the_virtual_order_is_that_of_the_workers_times() -> None:
    clock = VirtualClock(1.0, speeds=[1.0, 1.0, 0.5])
    fleet = Fleet(3)
    data = batches(60, 3)
    simulated = Simulated(fleet, grawa.LocalSGD(), clock, schedule=grawa.SharedCount(10))
    simulated.train_one_by_one(data, 60)
    simulated.engine.leave()
    reports = simulated.reports
    # At time 12 there are 12, 12 and 6 steps, 30 in all; worker 2 is the last to count its own and
    # joins at once, the others after one more. The slow worker is in its next step meanwhile.
    assert reports[0].steps_made.tolist() == [13.0, 13.0, 6.0]
    assert reports[0].elapsed == pytest.approx((13.0 + 13.0 + 12.0) / 3)
    # From 13 on: 60 in all with 11, 11 and 6 more, and worker 2 at 25.
    assert sum(sum(report.steps_made.tolist()) for report in reports[:2]) <= 62.0
    assert clock.now() <= 26.0
    rows = fleet.parameters()
    torch.testing.assert_close(rows, rows[:1].expand_as(rows))


def test_hosted_workers_that_step_one_by_one_can_not_overlap() -> None:
    options = {"schedule": grawa.SharedCount(8), "overlap_steps": 2}
    with pytest.raises(grawa.UserError, match="join a round one after another"):
        Simulated(Fleet(2), grawa.LocalSGD(), VirtualClock(1.0), **options)


def test_sharing_gradients_needs_equal_steps() -> None:
    fleet = Fleet(2)
    with pytest.raises(grawa.UserError, match="the same number of steps on every worker"):
        grawa.Averager(
            fleet.models,
            fleet.optimizers,
            grawa.DataParallel(),
            schedule=grawa.SharedCount(8),
        )
