"""Processes of one machine read each other's rows: the same means, and nothing is sent."""

import gc
import math
import os
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import SGD

import grawa
from grawa.comm import DistributedCommunicator
from grawa.comm.shared_memory import Handle, SharedMemory, attach
from grawa.errors import CommunicationError
from grawa.math.leaves import Leaves, Rows
from tests.comm.test_distributed import SHAPES, WEIGHTS, rows_of
from tests.helpers import INPUTS, mlp
from tests.world import on_ranks, outcomes


def hosted_rows(comm: DistributedCommunicator, values: dict[str, Tensor]) -> Rows:
    """Rows where the others can reach them."""
    rows = Rows(values.items()).twin(comm.allocate)
    for name, value in values.items():
        rows[name].copy_(value)
    return rows


def mean_of(weights: Tensor, shared: bool, spoil: bool = False) -> list[dict[str, Tensor]]:
    """Two means in a row into the same leaves, of rows that have moved in between."""
    comm = DistributedCommunicator(shared_memory=shared)
    rank = dist.get_rank()
    rows = hosted_rows(comm, rows_of(range(rank, rank + 1)))
    found, out = [], None
    for _ in range(2):
        if spoil:
            for leaf, values in enumerate(rows.values()):
                if not weights[rank, leaf % weights.shape[1]]:
                    values.fill_(math.nan)
        out = comm.weighted_mean(rows, weights, out)
        found.append({name: leaf.clone() for name, leaf in out.items()})
        for values in rows.values():
            values.mul_(0.5).add_(rank)
    comm.close()
    return found


@pytest.mark.world
@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("spoil", [False, True], ids=["finite", "NaN without weight"])
def test_the_same_bits_as_by_sockets(weights: Tensor, spoil: bool) -> None:
    sent = on_ranks(4, mean_of, weights, shared=False)[0]
    for found in on_ranks(4, mean_of, weights, shared=True, spoil=spoil):
        for mean, expected in zip(found, sent, strict=True):
            assert all(torch.equal(mean[name], expected[name]) for name in SHAPES)


def loopback_bytes() -> int:
    text = Path("/proc/net/dev").read_text(encoding="ascii")
    return int(next(line for line in text.splitlines() if "lo:" in line).split()[9])


BIG = 1_000_000


def sent_by_all(shared: bool) -> int:
    """Bytes over the loopback during a mean of four megabytes a process."""
    comm = DistributedCommunicator(shared_memory=shared)
    rows = hosted_rows(comm, {"x": torch.ones(1, BIG)})
    out = comm.weighted_mean(rows, WEIGHTS["equal"])
    before = loopback_bytes()
    comm.weighted_mean(rows, WEIGHTS["equal"], out)
    comm.gather(torch.zeros(1, 1))()
    return loopback_bytes() - before


@pytest.mark.world
def test_nothing_but_a_word_is_sent() -> None:
    assert min(on_ranks(4, sent_by_all, shared=False)) > 4 * BIG
    assert max(on_ranks(4, sent_by_all, shared=True)) < BIG / 10


def change_the_mean() -> tuple[Tensor, Tensor]:
    """A process may do with its mean as it likes; so may it with its row, once it has the mean."""
    comm = DistributedCommunicator()
    rank = dist.get_rank()
    rows = hosted_rows(comm, {"x": torch.full((1, BIG), float(rank))})
    out: Leaves | None = None
    for _ in range(5):
        rows["x"].fill_(rank)
        out = comm.weighted_mean(rows, WEIGHTS["equal"], out)
        seen = out["x"].clone()
        out["x"].fill_(100.0 + rank)
        rows["x"].fill_(-1.0)
    assert out is not None
    return seen[[0, BIG // 2, -1]], out["x"][[0, -1]].clone()


@pytest.mark.world
def test_what_a_process_does_with_its_mean_and_row_afterwards_is_its_own_affair() -> None:
    for rank, (mean, changed) in enumerate(on_ranks(4, change_the_mean)):
        assert mean.tolist() == [1.5, 1.5, 1.5]
        assert changed.tolist() == [100.0 + rank] * 2


def unreachable(handle: Handle) -> Tensor:
    raise PermissionError("as in a container of its own")


def mean_by_who_can(how: str) -> tuple[bool, float]:
    """Whether memory is shared, and a mean, where rank 2 can't or does not want to."""
    odd = dist.get_rank() == 2
    broken = patch("grawa.comm.distributed.attach", unreachable) if odd and how == "can't" else None
    if broken:
        broken.start()
    comm = DistributedCommunicator(shared_memory=not (odd and how == "unwilling"))
    if broken:
        broken.stop()
    rows = hosted_rows(comm, {"x": torch.full((1, 8), float(dist.get_rank()))})
    mean = comm.weighted_mean(rows, WEIGHTS["equal"])["x"]
    return comm._memory is not None, float(mean[0])


@pytest.mark.world
@pytest.mark.parametrize("how", ["can't", "unwilling"])
def test_if_one_process_can_not_all_send(how: str) -> None:
    assert on_ranks(4, partial(mean_by_who_can, how)) == [(False, 1.5)] * 4
    assert on_ranks(4, partial(mean_by_who_can, "all")) == [(True, 1.5)] * 4


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def open_blocks() -> int:
    return sum("memfd:grawa" in str(path.resolve()) for path in Path("/proc/self/fd").iterdir())


def train_and_forget() -> tuple[int, int]:
    """Open blocks during an averager's life, and after it."""
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    with grawa.Averager(model, optimizer, grawa.LGRAWA(), sync_every=1):
        model(torch.ones(1, INPUTS, dtype=torch.float64)).sum().backward()
        optimizer.step()
        during = open_blocks()
    del model, optimizer
    gc.collect()
    return during, open_blocks()


@pytest.mark.world
def test_memory_is_given_back() -> None:
    for during, after in on_ranks(2, train_and_forget):
        assert during > 0
        assert after == 0


def test_a_block_is_gone_with_its_last_tensor() -> None:
    memory = SharedMemory()
    before = open_files()
    tensor = memory.empty(1000, torch.float64)
    assert not tensor.any()
    part = tensor[10:20]
    block = memory.find(part)
    assert block is not None
    elsewhere = attach(block.handle).view(torch.float64)
    del tensor
    part.fill_(3.0)
    assert memory.find(part) is block
    del part
    gc.collect()
    assert elsewhere[5:25].tolist() == [0.0] * 5 + [3.0] * 10 + [0.0] * 5
    del elsewhere
    assert open_files() == before
    assert memory.find(torch.zeros(1)) is None
    with pytest.raises(OSError, match="fd"):
        attach(block.handle)


def test_nothing_takes_no_memory() -> None:
    assert SharedMemory().empty(0, torch.float32).shape == (0,)


def mean_with_one_lost(how: Callable[[], None]) -> None:
    comm = DistributedCommunicator(timeout=timedelta(seconds=2))
    rows = hosted_rows(comm, {"x": torch.ones(1, 100)})
    out = comm.weighted_mean(rows, WEIGHTS["equal"])
    if dist.get_rank() == 1:
        how()
        return
    comm.weighted_mean(rows, WEIGHTS["equal"], out)


def stay_away() -> None:
    """Says nothing, while the others wait."""


@pytest.mark.world
@pytest.mark.alone
def test_a_process_that_does_not_come_is_noticed_within_the_timeout() -> None:
    found = outcomes(4, mean_with_one_lost, stay_away)
    for rank, outcome in enumerate(found):
        if rank != 1:
            assert isinstance(outcome, CommunicationError)
            assert "rank 1" in str(outcome)


@pytest.mark.world
def test_other_systems_do_without() -> None:
    assert on_ranks(2, mean_on_another_system) == [(False, 0.5)] * 2


def mean_on_another_system() -> tuple[bool, float]:
    with patch.object(os, "memfd_create"):
        del os.memfd_create
        comm = DistributedCommunicator()
    rows = hosted_rows(comm, {"x": torch.full((1, 8), float(dist.get_rank()))})
    mean = comm.weighted_mean(rows, torch.full((2, 1), 0.5, dtype=torch.float64))["x"]
    return comm._memory is not None, float(mean[0])
