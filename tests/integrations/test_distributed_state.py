"""torch.distributed.checkpoint with all workers in it: nothing is mixed, and all comes back."""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save, save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.optim import AdamW

import grawa
from grawa.checkpoints.packed import Packed
from grawa.integrations import DistributedState
from grawa.workers.stack import local
from tests.checkpoints.test_resize import STEPS, STOP, Job
from tests.checkpoints.test_save_and_restore import TIMEOUT, Loop
from tests.helpers import STRATEGIES
from tests.world import on_ranks

FORMS: dict[str, dict[str, Any]] = {
    "lgrawa": {"sync_every": 2, "comm_dtype": "int8"},
    "lgrawa with outer Nesterov": {"sync_every": 4, "fragments": 2, "overlap_steps": 1},
    "lsgd in teams": {"sync_every": 2},
}
"""Strategies and options whose states differ in kind."""


def refusal(call: Callable[[], object]) -> str:
    """What a call is told that fails; the last line of torch's own errors."""
    try:
        call()
    except grawa.UserError as error:
        return str(error)
    except CheckpointException as error:
        return str(error).rstrip().rsplit("\n", 1)[1]
    return "nothing"


def goes_on(name: str, folder: Path, *, in_background: bool) -> bool:
    """Whether a fresh job that loads ends with the bits of the undisturbed one."""
    options = FORMS[name]
    whole = Loop(STRATEGIES[name], 1, 1, **options)
    whole.train(0, STOP)
    state = DistributedState(whole.averager)
    state.extra = whole.extra()
    if in_background:
        group = dist.new_group(backend="gloo")
        saving = async_save({"app": state}, checkpoint_id=folder / name, process_group=group)
        whole.go_on(STOP, STEPS)
        saving.result()  # type: ignore[union-attr]
    else:
        save({"app": state}, checkpoint_id=folder / name)
        whole.go_on(STOP, STEPS)
    whole.averager.detach()
    other = Loop(STRATEGIES[name], 1, 7, **options)
    state = DistributedState(other.averager)
    load({"app": state}, checkpoint_id=folder / name)
    other.take(state.extra)
    other.train(STOP, STEPS)
    other.averager.detach()
    return torch.equal(whole.everything(), other.everything()) and whole.extra() == other.extra()


def of_two(folder: Path) -> tuple[dict[str, bool], list[str]]:
    same = {name: goes_on(name, folder, in_background=i % 2 == 0) for i, name in enumerate(FORMS)}
    averager = Loop(grawa.LSGD(team_size=2), 1, 3).averager
    others = [Loop(each, 1, 3, sync_every=2).averager for each in (grawa.LSGD(), grawa.EASGD())]
    bare = {"app": averager}, {"app": {"averager": averager.state_dict(), "epoch": 1}}
    told = [refusal(partial(save, app, checkpoint_id=folder / "x")) for app in bare]
    apps = ({"app": DistributedState(each)} for each in others)
    saved = folder / "lsgd in teams"
    return same, told + [refusal(partial(load, app, checkpoint_id=saved)) for app in apps]


@pytest.mark.world
def test_a_fresh_job_goes_on_bit_for_bit_and_mixtures_are_refused(tmp_path: Path) -> None:
    for same, refused in on_ranks(2, of_two, tmp_path):
        assert all(same.values()), same
        for line in refused[:2]:
            assert "workers would be mixed: use grawa.integrations.DistributedState" in line
        assert "strategy.team_size: 2 saved, None here" in refused[2]
        assert "Missing key in checkpoint state_dict: app.EASGD of 2 workers in" in refused[3]


def saved_by_two(folder: Path) -> list[Tensor]:
    """The worker of this rank, and the center."""
    job = Job(grawa.LGRAWA(), 1)
    job.train(0, STOP)
    save({"app": DistributedState(job.averager)}, checkpoint_id=folder)
    return [*job.params(), center(job)]


def center(job: Job) -> Tensor:
    state = job.averager.state_dict()["runner"]["fragments"][0]["state"]["center"]
    names = [name for name, _ in job.fleet.models[0].named_parameters()]
    return torch.cat([state[name].flatten() for name in names])


def loaded_by_others(folder: Path, hosted: int) -> tuple[str, list[Tensor], list[int], str]:
    """What `dcp.load` says, and then the workers, with the sizes of their optimizers' states."""
    job = Job(grawa.LGRAWA(), hosted)
    state = DistributedState(job.averager)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        told = refusal(lambda: load({"app": state}, checkpoint_id=folder))
    missing = refusal(lambda: state.load_resized("other", checkpoint_id=folder))
    with pytest.warns(UserWarning, match="go on from a checkpoint of 2 workers in 2 processes"):
        state.load_resized("app", checkpoint_id=folder)
    found = job.params(), [len(each.state) for each in job.fleet.optimizers]
    job.train(STOP, STEPS)
    job.averager.detach()
    return told, *found, missing


@pytest.mark.world
def test_other_numbers_of_workers_go_on(tmp_path: Path) -> None:
    saved = on_ranks(2, saved_by_two, tmp_path)
    assert not torch.equal(saved[0][0], saved[1][0])
    centers = [own[1] for own in saved]
    four = on_ranks(4, loaded_by_others, tmp_path, 1)
    for found, wanted in zip(four, [saved[0][0], saved[1][0], *centers], strict=True):
        assert "Missing key in checkpoint state_dict: app.LGRAWA of 4 workers in 4" in found[0]
        assert torch.equal(found[1][0], wanted)
        assert "Missing key in checkpoint state_dict: other.manifest" in found[3]
    assert [found[2] for found in four] == [[4], [4], [0], [0]]
    told, params, _, _ = loaded_by_others(tmp_path, 2)  # in one process
    assert "app.LGRAWA of 2 workers in 1 process" in told
    assert all(torch.equal(own, each[0]) for own, each in zip(params, saved, strict=True))


def sharded(folder: Path) -> list[Tensor]:
    """Two workers of two shards each: what was saved, and what a fresh job has then."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("across", "within"))
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))
        fully_shard(net, mesh=mesh["within"])
        optimizer = AdamW(net.parameters(), lr=0.01)
        averager = grawa.Averager(
            net, optimizer, grawa.LGRAWA(), sync_every=2, timeout=TIMEOUT,
            process_group=mesh["across"].get_group(), worker_group=mesh["within"].get_group(),
        )  # fmt: skip
        state = {"app": DistributedState(averager)}
        if seed == 0:
            averager.attach()
            for _ in range(3):
                net(torch.full((8, 5), 1.0 + dist.get_rank())).sum().backward()
                optimizer.step()
            save(state, checkpoint_id=folder)
        else:
            load(state, checkpoint_id=folder)
        moments = [local(own["exp_avg"]) for own in optimizer.state.values()]
        both = [*map(local, net.parameters()), *moments]
        found.append(torch.cat([x.detach().flatten() for x in both]))
    return found


@pytest.mark.world
def test_shards_come_back(tmp_path: Path) -> None:
    found = on_ranks(4, sharded, tmp_path)
    assert all(torch.equal(*both) for both in found)
    assert not torch.equal(found[0][0], found[2][0])


def test_what_is_damaged_changes_nothing() -> None:
    """Of two workers in one process, whatever is missing in it."""
    job = Job(grawa.LGRAWA(), 2)
    job.train(0, STOP)
    state = DistributedState(job.averager)
    names = ["worker-0", "worker-1", "process-0", "shared", "manifest"]
    assert list(state.state_dict())[1:] == ["manifest", *names[:-1]]
    before = job.params()
    for name in names:
        for wrong in (None, {}, {"rest": None}, {"rest": Packed({})}):
            with pytest.raises(grawa.UserError, match=r"damaged|does not hold a worker"):
                state.load_state_dict({**state.state_dict(), name: wrong})
    state.load_state_dict(state.state_dict())
    assert all(torch.equal(*both) for both in zip(before, job.params(), strict=True))
