"""Processes of one machine read each other's rows: the same means, and nothing is sent."""

import gc
import math
import os
import time
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
from grawa.comm.mailboxes import Mailboxes
from grawa.comm.shared_memory import Handle, Region, attach, make
from grawa.errors import CommunicationError
from grawa.math.leaves import Leaves
from tests.comm.test_distributed import SHAPES, WEIGHTS, rows_of
from tests.helpers import INPUTS, mlp
from tests.world import on_ranks, outcomes


def mean_in_chunks(weights: Tensor, spoil: bool) -> list[dict[str, Tensor]]:
    """As `mean_of` through shared memory, a few elements at a time."""
    with patch.object(Mailboxes, "most_bytes", 1000):
        return mean_of(weights, shared=True, spoil=spoil)


def mean_of(weights: Tensor, shared: bool, spoil: bool = False) -> list[dict[str, Tensor]]:
    """Two means in a row into the same leaves, of rows that have moved in between."""
    comm = DistributedCommunicator(shared_memory=shared)
    rank = dist.get_rank()
    rows = rows_of(range(rank, rank + 1))
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
    comm.release()
    return found


@pytest.mark.world
@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("spoil", [False, True], ids=["finite", "NaN without weight"])
def test_the_same_bits_as_by_sockets(weights: Tensor, spoil: bool) -> None:
    sent = on_ranks(4, mean_of, weights, shared=False)[0]
    whole = on_ranks(4, mean_of, weights, shared=True, spoil=spoil)
    for found in (*whole, *on_ranks(4, mean_in_chunks, weights, spoil=spoil)):
        for mean, expected in zip(found, sent, strict=True):
            assert all(torch.equal(mean[name], expected[name]) for name in SHAPES)


def loopback_bytes() -> int:
    text = Path("/proc/net/dev").read_text(encoding="ascii")
    return int(next(line for line in text.splitlines() if "lo:" in line).split()[9])


BIG = 1_000_000


def sent_by_all(shared: bool) -> int:
    """Bytes over the loopback during a mean of four megabytes a process."""
    comm = DistributedCommunicator(shared_memory=shared)
    rows = {"x": torch.ones(1, BIG)}
    out = comm.weighted_mean(rows, WEIGHTS["equal"])
    before = loopback_bytes()
    comm.weighted_mean(rows, WEIGHTS["equal"], out)
    comm.gather(torch.zeros(1, 1))()
    return loopback_bytes() - before


@pytest.mark.world
def test_nothing_but_a_word_is_sent() -> None:
    assert min(on_ranks(4, sent_by_all, shared=False)) > 4 * BIG
    assert max(on_ranks(4, sent_by_all, shared=True)) < BIG / 10


def mapped_by_a_mean(elements: int) -> int:
    """Bytes of shared memory that are mapped after a mean."""
    comm = DistributedCommunicator()
    comm.weighted_mean({"x": torch.ones(1, elements)}, WEIGHTS["equal"])
    bounds = [
        [int(end, 16) for end in line.split()[0].split("-")]
        for line in Path("/proc/self/maps").read_text(encoding="ascii").splitlines()
        if "/memfd:grawa" in line
    ]
    return sum(stop - start for start, stop in bounds)


@pytest.mark.world
def test_mailboxes_are_no_larger_for_a_larger_model() -> None:
    elements = 2 * Mailboxes.most_bytes // 4
    mapped = [max(on_ranks(4, mapped_by_a_mean, times * elements)) for times in (1, 3)]
    assert mapped[0] == mapped[1] < 4 * 2.1 * Mailboxes.most_bytes


def change_the_mean() -> tuple[Tensor, Tensor]:
    """A process may do with its mean as it likes; so may it with its row, once it has the mean."""
    comm = DistributedCommunicator()
    rank = dist.get_rank()
    rows = {"x": torch.full((1, BIG), float(rank))}
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
    broken = (
        patch("grawa.comm.shared_memory.attach", unreachable) if odd and how == "can't" else None
    )
    if broken:
        broken.start()
    comm = DistributedCommunicator(shared_memory=not (odd and how == "unwilling"))
    if broken:
        broken.stop()
    rows = {"x": torch.full((1, 8), float(dist.get_rank()))}
    mean = comm.weighted_mean(rows, WEIGHTS["equal"])["x"]
    return "shared memory" in comm.arrangement, float(mean[0])


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
    """Blocks that an averager has open during its life, and after it."""
    gc.collect()
    before = open_blocks()
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    with grawa.Averager(model, optimizer, grawa.LGRAWA(), sync_every=1):
        model(torch.ones(1, INPUTS, dtype=torch.float64)).sum().backward()
        optimizer.step()
        during = open_blocks() - before
    del model, optimizer
    gc.collect()
    return during, open_blocks() - before


@pytest.mark.world
def test_memory_is_given_back() -> None:
    for during, after in on_ranks(2, train_and_forget):
        assert during > 0
        assert after == 0


def test_a_block_is_gone_with_its_last_tensor() -> None:
    before = open_files()
    values, handle = make(8000)
    elsewhere = attach(handle).view(torch.float64)
    os.close(handle.descriptor)
    part = values.view(torch.float64)[10:20].fill_(3.0)
    del values
    gc.collect()
    assert part.tolist() == [3.0] * 10
    assert elsewhere[5:25].tolist() == [0.0] * 5 + [3.0] * 10 + [0.0] * 5
    del part, elsewhere
    gc.collect()
    assert open_files() == before
    with pytest.raises(OSError, match="fd"):
        attach(handle)


def test_a_region_of_one_process_grows_and_holds_flat_tensors_of_any_dtype() -> None:
    region = Region(lambda own: [list(own)])
    for size in (0, 3, 1000, 5):
        like = [torch.empty(size, dtype=torch.float64), torch.empty(size + 1, dtype=torch.bfloat16)]
        (flats,) = region.flats(like)
        for values, form in zip(flats, like, strict=True):
            assert (values.shape, values.dtype) == (form.shape, form.dtype)
            values.fill_(size)
        assert flats[0].tolist() == [size] * size


def fork_a_child_that_zeroes_its_model() -> tuple[float, float]:
    """A forked child has a copy of its parent's model, whatever the parent trains with."""
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    with grawa.Averager(model, optimizer, grawa.LGRAWA(), sync_every=1):
        model(torch.ones(1, INPUTS, dtype=torch.float64)).sum().backward()
        optimizer.step()
        before = sum(float(p.detach().abs().sum()) for p in model.parameters())
        child = os.fork()
        if not child:
            for parameter in model.parameters():
                parameter.detach().zero_()
            os._exit(0)
        os.waitpid(child, 0)
        return before, sum(float(p.detach().abs().sum()) for p in model.parameters())


@pytest.mark.world
def test_a_forked_child_can_not_write_into_its_parents_model() -> None:
    for before, after in on_ranks(2, fork_a_child_that_zeroes_its_model):
        assert before == after > 0.0


def mean_with_one_lost(how: Callable[[], None], timeout_seconds: float) -> None:
    comm = DistributedCommunicator(timeout=timedelta(seconds=timeout_seconds))
    rows = {"x": torch.ones(1, 100)}
    out = comm.weighted_mean(rows, WEIGHTS["equal"])
    if dist.get_rank() == 1:
        how()
        return
    comm.weighted_mean(rows, WEIGHTS["equal"], out)


def end_at_once() -> None:
    """Is gone, as after a signal."""
    os._exit(1)


@pytest.mark.world
def test_a_process_that_ends_is_noticed_at_once_and_named() -> None:
    began = time.monotonic()
    found = outcomes(4, mean_with_one_lost, end_at_once, 60.0)
    assert time.monotonic() - began < 30.0
    for rank, outcome in enumerate(found):
        if rank != 1:
            assert isinstance(outcome, CommunicationError)
            assert "lost contact with rank 1" in str(outcome)
            assert "it has ended" in str(outcome)


def stay_away() -> None:
    """Says nothing, while the others wait."""


@pytest.mark.world
def test_a_process_that_does_not_come_is_noticed_within_the_timeout() -> None:
    found = outcomes(4, mean_with_one_lost, stay_away, 2.0)
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
    rows = {"x": torch.full((1, 8), float(dist.get_rank()))}
    mean = comm.weighted_mean(rows, torch.full((2, 1), 0.5, dtype=torch.float64))["x"]
    return "shared memory" in comm.arrangement, float(mean[0])
