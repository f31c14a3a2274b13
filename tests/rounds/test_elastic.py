"""Workers that die, come, come back and are slow, in real processes."""

import signal
from datetime import timedelta
from typing import Any

import pytest
import torch

import grawa
from tests.elastic import STEPS, Worker, lighthouse, workers
from tests.helpers import flat, mlp

pytestmark = pytest.mark.world


@pytest.mark.parametrize("where", ["before", "exchange", "vote", "after"])
def test_a_worker_that_dies_in_a_round_costs_the_others_no_step(where: str) -> None:
    with lighthouse() as at, workers(at, 3, dies={1: (3, where)}) as found:
        survivors = [found[0], found[2]]
        ends = [worker.until("end") for worker in survivors]
        assert [dict(worker.said)["made"] for worker in survivors] == [STEPS, STEPS]
        assert torch.equal(ends[0], ends[1])
        reports = [worker.rounds() for worker in survivors]
        assert [sorted(of_one) for of_one in reports] == [list(range(1, 7))] * 2
        lost = [round for round, report in reports[0].items() if 1 in report.left_out]
        assert lost in ([3, 4, 5, 6], [4, 5, 6])  # its last round counts everywhere or nowhere
        assert lost == [round for round, report in reports[1].items() if 1 in report.left_out]
        assert reports[0][6].left_out == {1: "absent"}


def test_one_that_is_started_again_gets_the_center_and_takes_part() -> None:
    options: dict[str, Any] = {"seconds": 0.03, "steps": 100, "strategy": grawa.EASGD()}
    with lighthouse() as at, workers(at, 3, **options) as found:
        found[1].until("round", 2)
        found[1].kill()
        found[0].until("round", 4)
        again = Worker(at, 1, 3, seed=77, **options)
        found.append(again)
        rounds, step, parameters = again.until("in")
        assert rounds >= 5 and step >= 16
        assert not torch.equal(parameters, flat(mlp(seed=77)))
        there = (found[0], again, found[2])
        ends = [worker.until("end") for worker in there]
        report = again.rounds()[rounds + 1]
        assert report.left_out == {} and report.weights is None
        assert found[0].rounds()[rounds].left_out == {1: "has just come"}
        assert sorted(found[0].rounds()) == list(range(1, 26))
        states = [dict(worker.said)["state"]["runner"]["fragments"][0] for worker in there]
        centers = [own["state"]["center"] for own in states]
        assert all(torch.equal(own[n], x) for own in centers[1:] for n, x in centers[0].items())
        assert all(end.isfinite().all() for end in ends)


@pytest.mark.parametrize("overlap_steps", [0, 2])
def test_one_that_was_stopped_comes_back_with_its_steps(overlap_steps: int) -> None:
    options: dict[str, Any] = {"seconds": 0.03, "steps": 120, "overlap_steps": overlap_steps}
    with lighthouse() as at, workers(at, 3, **options) as found:
        found[1].until("round", 2)
        found[1].signal(signal.SIGSTOP)
        away = found[0].until("round", 6)
        assert away.left_out == {1: "absent"}
        found[1].signal(signal.SIGCONT)
        ends = [worker.until("end") for worker in found]
        assert found[0].rounds()[30].left_out == {}
        assert sorted(found[0].rounds()) == sorted(found[2].rounds()) == list(range(1, 31))
        for end in ends[1:]:
            torch.testing.assert_close(end, ends[0], rtol=0.0, atol=1e-12)


def test_a_slow_worker_is_left_out_after_the_grace_time_and_comes_to_the_next() -> None:
    options: dict[str, Any] = {"seconds": {0: 0.05, 1: 0.4, 2: 0.05}, "steps": 60}
    with lighthouse(grace="300ms") as at, workers(at, 3, **options) as found:
        ends = [worker.until("end") for worker in found]
        out = [1 in report.left_out for report in found[0].rounds().values()]
        assert any(out) and not all(out)
        assert dict(found[0].said)["made"] == 60
        assert torch.equal(ends[0], ends[1])


def test_hosts_are_found_anew_when_a_whole_one_dies() -> None:
    options: dict[str, Any] = {"hosts": [[0, 1], [2, 3]], "seconds": 0.02, "steps": 60}
    with lighthouse() as at, workers(at, 4, **options) as found:
        found[0].until("round", 2)
        for worker in found[2:]:
            worker.kill()
        ends = [worker.until("end") for worker in found[:2]]
        assert torch.equal(*ends)
        assert found[0].rounds()[15].left_out == {2: "absent", 3: "absent"}


@pytest.mark.filterwarnings("ignore")
def test_below_the_least_the_others_wait_and_then_end_with_their_state() -> None:
    options = {"min_workers": 2, "wait": timedelta(seconds=0.5), "dies": {1: (3, "before")}}
    with lighthouse() as at, workers(at, 2, **options) as found:
        with pytest.raises(grawa.CommunicationError, match=r"workers 0 are there, and min_workers"):
            found[0].until("nothing")
        assert dict(found[0].said)["made"] == 12
        assert dict(found[0].said)["state"]["runner"]["round"] == 2


def test_a_new_worker_alone_never_starts_a_job() -> None:
    with lighthouse() as at:
        alone = Worker(at, 1, 2, wait=timedelta(seconds=0.3))
        with pytest.raises(grawa.CommunicationError, match="a job starts with all 2"):
            alone.until("in")


def test_without_a_lighthouse_it_ends_at_the_stated_time() -> None:
    with lighthouse() as at:
        pass
    alone = Worker(at, 1, 2, wait=timedelta(seconds=0.3))
    with pytest.raises(grawa.CommunicationError, match=r"lighthouse at .* out of reach"):
        alone.until("in")
