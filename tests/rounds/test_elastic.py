"""Workers that die, come, come back and are slow, in real processes."""

import os
import signal
import sys
import time
import warnings
from copy import deepcopy
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import mse_loss
from torch.optim import AdamW

import grawa
from examples.median import Median
from grawa.comm.gloo_world import OwnStore
from grawa.comm.lighthouse import torchft
from grawa.comm.present import ElasticCommunicator
from tests.elastic import STEPS, SYNC_EVERY, Worker, lighthouse, workers
from tests.helpers import OUTPUTS, batches, flat, mlp, poison, sgd
from tests.world import on_ranks

pytestmark = pytest.mark.world


@pytest.mark.parametrize(
    ("where", "strategy"),
    [
        *((where, grawa.LocalSGD()) for where in ("before", "exchange", "vote", "after")),
        ("exchange", Median()),
    ],
)
def test_a_worker_that_dies_in_a_round_costs_the_others_no_step(
    where: str, strategy: grawa.Strategy
) -> None:
    options: dict[str, Any] = {"dies": {1: (3, where)}, "strategy": strategy}
    with lighthouse() as at, workers(at, 3, **options) as found:
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
    options["optimizer_state"] = "average"  # the new one has none, and then a younger one
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
        with pytest.raises(grawa.CommunicationError, match=r"are there \(0\): min_workers is 2"):
            found[0].until("nothing")
        runner = dict(found[0].said)["state"]["runner"]
        assert (runner["round"], runner["roll_call"]["steps"]) == (2, [12])


def test_a_new_worker_alone_never_starts_a_job() -> None:
    with lighthouse() as at:
        alone = Worker(at, 1, 2, wait=timedelta(seconds=0.3))
        with pytest.raises(grawa.CommunicationError, match="a job starts with all 2"):
            alone.until("in")


def test_those_who_died_at_a_meeting_do_not_keep_their_places() -> None:
    """The lighthouse counts them among those who have come until they are silent for a while."""
    options: dict[str, Any] = {"seconds": 0.02, "min_workers": 2}
    with lighthouse() as at, workers(at, 3, steps=100_000, **options) as found:
        found[0].until("round", 2)
        found[1].kill()
        found[2].kill()
        time.sleep(0.6)  # worker 0 waits for others, and then dies later than they do
        found[0].kill()
        found += [Worker(at, i, 3, **options) for i in range(3)]
        for worker in found[3:]:
            worker.until("end")
        assert sorted(found[3].rounds()) == list(range(1, STEPS // SYNC_EVERY + 1))


def test_of_two_processes_with_one_number_the_second_ends() -> None:
    options: dict[str, Any] = {"seconds": 0.02, "steps": 100_000}
    with lighthouse() as at, workers(at, 2, **options) as found:
        found[0].until("round", 2)
        found.append(Worker(at, 1, 2, **options))
        with pytest.raises(grawa.CommunicationError, match="taken the place of worker 1"):
            raise found[2].until("error")
        assert found[0].until("round", 5).left_out == {}


def test_without_a_lighthouse_it_ends_at_the_stated_time() -> None:
    with lighthouse() as at:
        pass
    alone = Worker(at, 1, 2, wait=timedelta(seconds=0.3))
    with pytest.raises(grawa.CommunicationError, match=r"lighthouse at .* out of reach"):
        alone.until("in")


OPTIONS: dict[str, dict[str, Any]] = {
    "lgrawa": {"strategy": grawa.LGRAWA()},
    "easgd with prox": {"strategy": grawa.EASGD(prox=0.05)},
    "diloco in fragments": {"strategy": grawa.DiLoCo(), "fragments": 2},
    "outer AdamW": {"strategy": grawa.DiLoCo(outer=partial(AdamW, lr=0.05))},
    "dppf": {"strategy": grawa.DPPF(push=0.05, push_warmup=1)},
    "edit by steps": {"strategy": grawa.EDiT(warmup_rounds=2), "weigh_by": "steps"},
    "late": {"strategy": grawa.MGRAWA(), "overlap_steps": 1},
    "mixed late in fragments": {
        "strategy": grawa.LocalSGD(), "overlap_steps": 1, "fragments": 2, "alpha": 0.5,
    },
    "two levels": {"strategy": grawa.LGRAWA(), "hosts": [[0, 1], [2]]},
    "without a guard": {"strategy": grawa.LSGD(), "guard": None},
    "one is reset": {"strategy": grawa.LGRAWA(), "poisons": 1},
    "one is reset in fragments": {"strategy": grawa.EASGD(), "poisons": 1, "fragments": 2},
    "with the optimizers' state": {
        "strategy": grawa.LGRAWA(), "optimizer_state": "average", "poisons": 1,
    },
    "one is reset, of several means": {"strategy": grawa.LocalSGD(), "poisons": 1},
}  # fmt: skip


def trained(options: dict[str, Any], at: str | None) -> torch.Tensor:
    """The parameters after training without faults; elastic if there is a lighthouse."""
    rank, size = dist.get_rank(), dist.get_world_size()
    options = dict(options)
    poisoned = options.pop("poisons", None)
    if at is not None:
        elastic = grawa.Elastic(min_workers=size, lighthouse=at, worker=rank, num_workers=size)
        options = {**options, "elastic": elastic}
    model = nn.Sequential(mlp(seed=rank), nn.BatchNorm1d(OUTPUTS).double())
    optimizer = sgd(model)
    data = batches(10, size).workers([rank])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with grawa.Averager(model, optimizer, sync_every=4, **options) as averager:
            for inputs, targets in zip(data.inputs, data.targets, strict=True):
                if averager.step == 5 and rank == poisoned:
                    poison(model)
                optimizer.zero_grad()
                loss = mse_loss(model(inputs[0]), targets[0])
                loss.backward()
                averager.record_loss(loss)
                optimizer.step()
    consensus = averager.consensus()
    return torch.cat([flat(model), *(x.flatten().double() for x in consensus.values())])


@pytest.mark.parametrize("name", OPTIONS)
def test_without_faults_it_is_the_same_to_the_bit(name: str) -> None:
    plain = on_ranks(3, trained, OPTIONS[name], None)
    with lighthouse() as at:
        elastic = on_ranks(3, trained, OPTIONS[name], at)
    for before, after in zip(plain, elastic, strict=True):
        assert torch.equal(before, after)


def connected_again_and_again(times: int) -> tuple[list[int], list[int]]:
    """Descriptors and threads after each time that all have connected."""
    rank, size = dist.get_rank(), dist.get_world_size()
    comm = ElasticCommunicator(size, rank, timeout=timedelta(seconds=20))
    store = OwnStore("127.0.0.1")
    places: list[Any] = [None] * size
    dist.all_gather_object(places, store.place)
    counts: tuple[list[int], list[int]] = [], []
    for i in range(times):
        comm.connect(f"quorum {i}", list(range(size)), places[0])
        assert comm.gather(torch.full((1, 1), float(rank)))()[:, 0].tolist() == [0.0, 1.0]
        for count, folder in zip(counts, ("fd", "task"), strict=True):
            count.append(len(os.listdir(f"/proc/self/{folder}")))
    comm.abandon()
    dist.barrier()
    return counts


def test_connections_that_were_given_up_leave_nothing_behind() -> None:
    for descriptors, threads in on_ranks(2, connected_again_and_again, 50):
        assert max(descriptors[10:]) <= max(descriptors[:10]) + 20  # some close a little later
        assert max(threads[10:]) <= max(threads[:10]) + 10


def listening() -> set[str]:
    """The addresses at which this process listens, in hexadecimal as the kernel gives them."""
    own = Path("/proc/self/fd")
    links = {os.readlink(own / name) for name in os.listdir(own) if (own / name).is_symlink()}
    found: set[str] = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/self/net", table).read_text(encoding="ascii").splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in links:
                found.add(local.partition(":")[0])
    return found


def connected_and_listening() -> set[str]:
    """Where a worker listens that is connected."""
    rank, size = dist.get_rank(), dist.get_world_size()
    before = listening()
    comm = ElasticCommunicator(size, rank, timeout=timedelta(seconds=20))
    store = OwnStore("127.0.0.1")
    places: list[Any] = [None] * size
    dist.all_gather_object(places, store.place)
    comm.connect("quorum", list(range(size)), places[0])
    found = listening()
    comm.abandon()
    dist.barrier()
    return found | before


def test_nothing_listens_but_on_loopback() -> None:
    for found in on_ranks(2, connected_and_listening):
        assert found == {"0100007F"}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"strategy": grawa.DataParallel()}, "shares gradients at every step"),
        ({"strategy": grawa.LSGD(team_size=2, leader_every=2)}, "teams of fixed workers"),
        ({"schedule": grawa.SharedCount(4)}, "count their steps together"),
        ({"comm_dtype": "int8"}, "sends differences from what all workers have"),
        ({"comm_dtype": grawa.TopK()}, r"comm_dtype=TopK\(.*\) sends differences"),
        ({"between_hosts": "gloo"}, "between_hosts can't be used with elastic"),
    ],
)
def test_what_needs_all_workers_is_refused(options: dict[str, Any], why: str) -> None:
    model = mlp()
    elastic = grawa.Elastic(min_workers=1, lighthouse="127.0.0.1:1", worker=0, num_workers=2)
    given = {"strategy": grawa.LocalSGD(), **options}
    with pytest.raises(grawa.UserError, match=why):
        grawa.Averager(model, sgd(model), elastic=elastic, **given)


def test_the_launcher_says_which_worker_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(grawa.UserError, match="does not know lighthouse and worker"):
        grawa.Elastic(min_workers=1).placed()
    monkeypatch.setenv("TORCHFT_LIGHTHOUSE", "http://127.0.0.1:7")
    for name, value in (("RANK", "2"), ("WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    with grawa.distributed():
        found = grawa.Elastic(min_workers=1).placed()
    assert (found.lighthouse, found.worker, found.num_workers) == ("127.0.0.1:7", 2, 4)
    monkeypatch.setenv("RANK", "two")
    with pytest.raises(grawa.UserError, match="RANK must be a number, got 'two'"):
        grawa.distributed().__enter__()


def test_without_torchft_one_line_says_what_to_install() -> None:
    torchft.cache_clear()
    with (
        patch.dict(sys.modules, {"torchft": None}),
        pytest.raises(grawa.UserError, match=r"grawa\[elastic\]"),
        grawa.lighthouse(grawa.Elastic(min_workers=1)),
    ):
        pass
    torchft.cache_clear()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"min_workers": 0}, "min_workers must be at least 1"),
        ({"min_workers": 3, "num_workers": 2}, "num_workers must be at least 2 and min_workers"),
        ({"min_workers": 1, "worker": 2, "num_workers": 2}, "worker must be a number"),
        ({"min_workers": 1, "grace": "soon"}, "grace must be a time with a unit"),
        ({"min_workers": 1, "grace": 0}, "grace must be positive"),
        ({"min_workers": 1, "lighthouse": "nowhere"}, "lighthouse must be"),
        ({"min_workers": 1, "wait": timedelta(0)}, "wait must be positive"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(grawa.UserError, match=why):
        grawa.Elastic(**options)


@pytest.mark.parametrize("overlap_steps", [0, 2])
def test_an_error_in_one_loop_lets_the_others_go_on(overlap_steps: int) -> None:
    options: dict[str, Any] = {"overlap_steps": overlap_steps, "raises": {1: 10}, "seconds": 0.01}
    with lighthouse() as at, workers(at, 3, **options) as found:
        with pytest.raises(KeyError, match="mine"):
            found[1].until("nothing")
        ends = [worker.until("end") for worker in (found[0], found[2])]
        torch.testing.assert_close(ends[0], ends[1], rtol=0.0, atol=1e-12)
        assert found[0].rounds()[6].left_out == {1: "absent"}
        assert found[1].process.is_alive()  # whatever it does, they don't wait for it


def resumed(lighthouses: list[str] | None, folder: Path | None = None) -> torch.Tensor:
    """The parameters after training that was saved and resumed in a new job."""
    rank, size = dist.get_rank(), dist.get_world_size()
    data = batches(12, size).workers([rank])
    saved: list[Any] = []
    for half in range(2):
        options: dict[str, Any] = {}
        if lighthouses is not None:
            options["elastic"] = grawa.Elastic(
                min_workers=size, lighthouse=lighthouses[half], worker=rank, num_workers=size
            )
        model = mlp(seed=rank)
        optimizer = sgd(model)
        averager = grawa.Averager(model, optimizer, grawa.EASGD(prox=0.05), sync_every=4, **options)
        parts: list[Any] = [averager, model, optimizer]
        for place, state in zip(parts, saved, strict=False):
            place.load_state_dict(state)
        if folder is not None and half:
            assert averager.restore(folder) == {"half": 0}
        averager.attach()
        for step in range(6 * half, 6 * half + 6):
            optimizer.zero_grad()
            loss = mse_loss(model(data.inputs[step, 0]), data.targets[step, 0])
            loss.backward()
            averager.record_loss(loss)
            optimizer.step()
        if folder is None:
            saved = [deepcopy(part.state_dict()) for part in parts]
        else:
            path = averager.save(folder, {"half": half}, wait=half == 0)
            averager.finish_saving()
            own = folder if lighthouses is None else folder / f"worker-{rank}"
            assert path.parent == own and sorted(path.parent.glob("save-*"))[half] == path
        dist.barrier()
    assert (averager.round, averager.step) == (3, 12)
    return flat(model)


@pytest.mark.parametrize("by_checkpoint", [False, True], ids=["state_dict", "checkpoint"])
def test_a_job_that_all_resume_goes_on_as_a_plain_one(by_checkpoint: bool, tmp_path: Path) -> None:
    folders = [tmp_path / name if by_checkpoint else None for name in ("plain", "elastic")]
    plain = on_ranks(2, resumed, None, folders[0])
    with lighthouse() as first, lighthouse() as second:
        elastic = on_ranks(2, resumed, [first, second], folders[1])
    for before, after in zip(plain, elastic, strict=True):
        assert torch.equal(before, after)


def goes_back(at: str, folder: Path) -> list[str]:
    """What an elastic worker is told that would go back while the others go on."""
    rank, told = dist.get_rank(), []
    elastic = grawa.Elastic(min_workers=2, lighthouse=at, worker=rank, num_workers=2)
    model = mlp(seed=rank)
    averager = grawa.Averager(model, sgd(model), grawa.LocalSGD(), elastic=elastic)
    with averager:
        averager.save(folder)
        with pytest.raises(grawa.UserError) as refused:
            averager.restore(folder)
        told.append(str(refused.value))
        with pytest.raises(grawa.UserError) as refused:
            averager.load_state_dict(averager.state_dict())
        told.append(str(refused.value))
    return told


def test_a_worker_that_has_joined_the_others_does_not_go_back(tmp_path: Path) -> None:
    with lighthouse() as at:
        for told in on_ranks(2, goes_back, at, tmp_path):
            assert all("restore before the `with` block, or attach()" in text for text in told)
