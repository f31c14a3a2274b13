"""A process asks that training ends: all learn it in the same round, which is as it would be."""

import signal
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import grawa
from tests.elastic import lighthouse, workers
from tests.helpers import Fleet, batches, mlp, sgd
from tests.world import on_ranks

STEPS, TAU, ASKED = 24, 4, 9
TIMEOUT = timedelta(seconds=20)
OPTIONS: dict[str, dict[str, Any]] = {
    "blocking": {"sync_every": TAU},
    "overlap": {"sync_every": TAU, "overlap_steps": 2},
    "fragments": {"sync_every": TAU, "fragments": 2, "overlap_steps": 1},
    "shared count": {"schedule": grawa.SharedCount(TAU), "overlap_steps": 1},
    "warm-up, always in the background": {
        "schedule": grawa.Warmup(TAU, steps=16), "overlap_steps": 2,
    },
    "few bits": {"sync_every": TAU, "comm_dtype": "int8"},
    "two levels": {"sync_every": TAU, "hosts": [[0, 1], [2, 3]]},
}  # fmt: skip
DETERMINED = [name for name in OPTIONS if name != "shared count"]


@dataclass
class Seen:
    """What a process saw of a training."""

    stopping: list[bool]
    """Of each round's report."""
    stops_at: int | None
    """The round after which the loop was to end, if it was."""
    parameters: Tensor


def train(
    hosted: int,
    asks: dict[int, int],
    options: dict[str, Any],
    folder: Path | None = None,
    *,
    goes_on: bool = False,
) -> Seen:
    """Trains, from the folder's checkpoint on; some ranks ask for a stop after so many steps."""
    rank = dist.get_rank()
    data = batches(STEPS, 4).workers([rank * hosted + k for k in range(hosted)])
    fleet, reports = Fleet(hosted), list[grawa.RoundReport]()
    averager = grawa.Averager(
        fleet.models, fleet.optimizers, grawa.LGRAWA(), timeout=TIMEOUT,
        on_round=[reports.append], **options,
    )  # fmt: skip
    stops_at: int | None = None
    with averager:
        if folder is not None:
            averager.restore(folder)
        while averager.step < STEPS:
            if averager.step == asks.get(rank):
                averager.request_stop()
            fleet.train(data.steps(averager.step, averager.step + 1), averager)
            if averager.stopping and stops_at is None:
                stops_at = averager.round
                if folder is not None:
                    averager.save(folder)
                if not goes_on:
                    break
    return Seen([report.stopping for report in reports], stops_at, fleet.parameters())


@pytest.mark.world
@pytest.mark.parametrize("name", OPTIONS)
def test_all_learn_it_in_the_same_round(name: str) -> None:
    found = on_ranks(4, train, 1, {2: ASKED}, OPTIONS[name], goes_on=True)
    told = found[0].stopping
    assert all(seen.stopping == told for seen in found)
    first = told.index(True)
    assert told == [False] * first + [True] * (len(told) - first)
    if name in DETERMINED:
        (stops_at,) = {seen.stops_at for seen in found}
        assert stops_at is not None and stops_at > first
        whole = on_ranks(4, train, 1, {}, OPTIONS[name])
        assert not any(whole[0].stopping)
        for seen, undisturbed in zip(found, whole, strict=True):
            assert torch.equal(seen.parameters, undisturbed.parameters)


@pytest.mark.world
@pytest.mark.parametrize("name", DETERMINED)
def test_what_is_saved_then_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    options, hosted = dict(OPTIONS[name]), 1 if name == "two levels" else 2
    ranks = 4 // hosted
    found = on_ranks(ranks, train, hosted, {1: ASKED, 0: ASKED + 1}, options, tmp_path)
    assert None not in {seen.stops_at for seen in found}
    again = on_ranks(ranks, train, hosted, {}, options, tmp_path)
    whole = on_ranks(ranks, train, hosted, {}, options)
    for seen, undisturbed in zip(again, whole, strict=True):
        assert torch.equal(seen.parameters, undisturbed.parameters)


def part_of_a_worker() -> tuple[list[bool], bool]:
    """Two workers of two processes each; one process of the second worker asks."""
    rank = dist.get_rank()
    groups = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    within = groups[rank // 2]
    across = [dist.new_group([0, 2]), dist.new_group([1, 3])][rank % 2]
    model = mlp()
    ddp = torch.nn.parallel.DistributedDataParallel(model, process_group=within)
    optimizer, reports = sgd(model), list[grawa.RoundReport]()
    averager = grawa.Averager(
        ddp, optimizer, grawa.LocalSGD(), sync_every=2, process_group=across, worker_group=within,
        timeout=TIMEOUT, on_round=[reports.append],
    )  # fmt: skip
    data = batches(6, 4).workers([rank])
    with averager:
        for step in range(6):
            if step == 2 and rank == 3:
                averager.request_stop()
            optimizer.zero_grad()
            (ddp(data.inputs[step, 0]) - data.targets[step, 0]).square().mean().backward()
            optimizer.step()
    return [report.stopping for report in reports], averager.stopping


@pytest.mark.world
def test_every_process_of_a_worker_may_ask() -> None:
    assert on_ranks(4, part_of_a_worker) == [([False, True, True], True)] * 4


@pytest.mark.world
def test_an_elastic_worker_stops_alone_and_the_others_go_on() -> None:
    with lighthouse() as at, workers(at, 3, asks={1: ASKED}) as found:
        for worker in found:
            worker.until("end")
        stopping = [[report.stopping for report in worker.rounds().values()] for worker in found]
        last = list(found[0].rounds().values())[-1]
    assert stopping[1] == [False, False, True]
    assert not any(stopping[0] + stopping[2])
    assert len(stopping[0]) > 3 and last.left_out == {1: "absent"}


def test_a_worker_alone_stops_at_its_next_round() -> None:
    fleet, data = Fleet(1), batches(STEPS, 1)
    averager = grawa.Averager(fleet.models, fleet.optimizers, grawa.LGRAWA(), sync_every=TAU)
    with averager:
        for step in range(STEPS):
            if step == 5:
                averager.request_stop()
            fleet.train(data.steps(step, step + 1), averager)
            assert averager.stopping == (step + 1 >= 2 * TAU)


def test_a_signal_may_ask_in_the_middle_of_anything() -> None:
    fleet, data = Fleet(2), batches(STEPS, 2)
    averager = grawa.Averager(fleet.models, fleet.optimizers, grawa.LGRAWA(), sync_every=1)
    before = signal.signal(signal.SIGUSR1, lambda *_: averager.request_stop())
    try:
        with averager:
            fleet.train(data.steps(0, 4), averager)
            signal.raise_signal(signal.SIGUSR1)
            assert not averager.stopping
            fleet.train(data.steps(4, 5), averager)
            assert averager.stopping
    finally:
        signal.signal(signal.SIGUSR1, before)
