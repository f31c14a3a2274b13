"""Checkpoints of several processes: one fate for all, with or without a folder that all see."""

import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import NoReturn
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW

import grawa
from grawa.workers.stack import local
from tests.checkpoints.test_save_and_restore import TIMEOUT, small
from tests.world import on_ranks

pytestmark = pytest.mark.world


def told(folder: Path, averager: grawa.Averager, *, save: bool = False) -> str:
    try:
        done = averager.save(folder) if save else averager.restore(folder)
    except grawa.UserError as error:
        return str(error)
    return f"{done}"


def full(*_: object) -> NoReturn:
    raise OSError(28, "No space left on device")


def one_fails(folder: Path) -> list[str]:
    """What each rank is told where only one of them has trouble."""
    rank = dist.get_rank()
    averager = small(hosted=1)
    saved = averager.save(folder)
    found: list[str] = []
    for broken in ("grawa.saving.whole.os.fsync", "grawa.saving.part.Path.open"):
        with patch(broken, full) if rank == 1 else nullcontext():
            found.append(told(folder, averager, save=True))
        assert list(folder.iterdir()) == [saved]
    if rank == 1:
        (saved / "worker-1.pt").unlink()
    found.append(told(folder, averager))
    return found


def test_where_one_fails_all_are_told_the_same(tmp_path: Path) -> None:
    first, second = on_ranks(2, one_fails, tmp_path)
    assert first == second
    assert all("No space left on device" in line for line in first[:2])
    assert "worker-1.pt is missing" in first[2]


def without_a_shared_folder(folder: Path) -> list[str]:
    """Each rank has a folder of its own, as hosts without a common file system."""
    rank = dist.get_rank()
    own = folder / f"host-{rank}"
    averager = small(hosted=1)
    first, second = averager.save(own), averager.save(own)
    files = {path.name for path in second.iterdir() if path.suffix != ".sha256"}
    assert files == {"manifest.json", "shared.pt", f"process-{rank}.pt", f"worker-{rank}.pt"}
    found = [told(own, small(hosted=1, steps=0))]
    if rank == 1:
        shutil.rmtree(second)
    averager.restore(own)  # the newest that both have
    if rank == 1:
        shutil.rmtree(first)
    found.append(told(own, averager))
    found.append(told(folder / f"host-{1 - rank}", averager))
    return found


def test_hosts_that_share_no_folder_each_keep_their_own(tmp_path: Path) -> None:
    first, second = on_ranks(2, without_a_shared_folder, tmp_path)
    assert first[0] == second[0] == "{}"
    assert "process 1 finds no checkpoint" in first[1] and "process 1 finds no" in second[1]
    assert "process 0 finds no checkpoint" in first[2]


def mixed(folder: Path) -> str:
    """Rank 1 sees another job's checkpoint under the same name."""
    own = folder / str(dist.get_rank())
    for _ in range(2):
        averager = small(hosted=1)
        averager.save(folder / "one")
    saved = small(hosted=1).save(own)
    if dist.get_rank() == 0:
        shutil.copytree(folder / "one" / "save-000001-round-00000002", folder / "x" / saved.name)
    place = (folder / "x" if dist.get_rank() == 0 else own) / saved.name
    return told(place, averager)


def test_parts_of_different_saves_are_never_put_together(tmp_path: Path) -> None:
    for found in on_ranks(2, mixed, tmp_path):
        assert "not the same checkpoint on every process" in found


def sharded(kind: str, folder: Path) -> list[Tensor]:
    """Two workers of two processes each, undisturbed and restored."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("across", "within"))
    across, within = mesh["across"].get_group(), mesh["within"].get_group()

    def job(seed: int) -> tuple[nn.Module, torch.optim.Optimizer, grawa.Averager]:
        torch.manual_seed(seed)
        net: nn.Module = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3))
        if kind == "fsdp":
            fully_shard(net, mesh=mesh["within"])
        else:
            net = DistributedDataParallel(net, process_group=within)
        optimizer = AdamW(net.parameters(), lr=0.01)
        averager = grawa.Averager(
            net, optimizer, grawa.LGRAWA(), sync_every=2, timeout=TIMEOUT,
            process_group=across, worker_group=within,
        )  # fmt: skip
        averager.attach()
        return net, optimizer, averager

    def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            random = torch.Generator().manual_seed(100 * dist.get_rank() + step)
            optimizer.zero_grad()
            x = torch.randn(8, 5, generator=random)
            mse_loss(net(x), torch.ones(8, 3)).backward()
            optimizer.step()

    whole, its, averager = job(0)
    train(whole, its, range(3))
    averager.save(folder, {"rank": dist.get_rank()})
    train(whole, its, range(3, 7))
    other, own, resumed = job(1)
    assert resumed.restore(folder) == {"rank": dist.get_rank()}
    train(other, own, range(3, 7))
    return [
        torch.cat([local(p).detach().flatten() for p in net.parameters()]) for net in (whole, other)
    ]


def one_more(folder: Path) -> tuple[float, float]:
    """Two workers of two shards each, where one had been saved."""
    mesh = init_device_mesh("cpu", (dist.get_world_size() // 2, 2), mesh_dim_names=("a", "b"))
    torch.manual_seed(0)
    net: nn.Module = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))
    fully_shard(net, mesh=mesh["b"])
    optimizer = AdamW(net.parameters(), lr=0.01)
    averager = grawa.Averager(
        net, optimizer, grawa.LGRAWA(), sync_every=1, timeout=TIMEOUT,
        process_group=mesh["a"].get_group(), worker_group=mesh["b"].get_group(),
    )  # fmt: skip
    if folder.exists():
        with pytest.warns(UserWarning, match="2 workers in 4 processes go on from a checkpoint of"):
            averager.restore(folder, resize=True)
    else:
        averager.attach()
        net(torch.ones(8, 5)).sum().backward()
        optimizer.step()
        averager.save(folder)
    total = sum(float(local(p).detach().double().sum()) for p in net.parameters())
    return total, len(optimizer.state)


def test_workers_of_several_processes_can_be_more(tmp_path: Path) -> None:
    saved = on_ranks(2, one_more, tmp_path / "one")
    restored = on_ranks(4, one_more, tmp_path / "one")
    assert [total for total, _ in restored] == [total for total, _ in saved] * 2  # its shards
    assert [count for _, count in restored] == [4, 4, 0, 0]


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_workers_of_several_processes_come_back(kind: str, tmp_path: Path) -> None:
    for whole, other in on_ranks(4, sharded, kind, tmp_path):
        assert torch.equal(whole, other)
    names = {path.name for path in next(tmp_path.iterdir()).iterdir()}
    assert {"worker-1-part-1.pt", "shared-part-1.pt", "process-3.pt"} <= names
