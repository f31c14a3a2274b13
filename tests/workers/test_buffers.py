"""Buffers travel in their own dtype, if they have changed; equal values stay equal."""

import warnings
from collections.abc import Callable
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import grawa
from grawa.workers.buffers import Buffers, combine
from grawa.workers.changes import BufferState
from tests.world import on_ranks, outcomes

INF = float("inf")


class WithBuffer(nn.Module):
    """A linear layer with a buffer that its forward pass ignores, or changes."""

    buffer: Tensor

    def __init__(
        self, buffer: Tensor, change: Callable[[Tensor], Tensor] | None = None, kept: bool = True
    ) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.register_buffer("buffer", buffer, persistent=kept)
        self._change = change

    def forward(self, inputs: Tensor) -> Tensor:
        if self._change is not None:
            self.buffer = self._change(self.buffer)
        out: Tensor = self.layer(inputs)
        return out


def trained(
    make: Callable[[int], WithBuffer],
    workers: int = 2,
    steps: int = 4,
    *,
    overlap_steps: int = 0,
    guard: grawa.Guard | None = None,
) -> tuple[list[Tensor], grawa.Averager]:
    """The workers' buffers after some rounds of training."""
    models = [make(k) for k in range(workers)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    with grawa.Averager(
        models, optimizers, grawa.LGRAWA(), sync_every=2, overlap_steps=overlap_steps, guard=guard
    ) as averager:
        for _ in range(steps):
            for model, optimizer in zip(models, optimizers, strict=True):
                optimizer.zero_grad()
                model(torch.randn(4, 3)).square().mean().backward()
            for optimizer in optimizers:
                optimizer.step()
    return [model.buffer for model in models], averager


@pytest.mark.parametrize("value", [-INF, INF, torch.finfo(torch.float32).min, float("nan")])
@pytest.mark.parametrize("guard", [grawa.Guard(), None])
@pytest.mark.parametrize("workers", [1, 2])
def test_masks_stay_as_they_are(value: float, guard: grawa.Guard | None, workers: int) -> None:
    mask = torch.full((3, 3), value).triu(1)
    found, averager = trained(lambda _: WithBuffer(mask.clone()), workers, guard=guard)
    assert averager.round == 2
    for buffer in found:
        torch.testing.assert_close(buffer, mask, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("overlap_steps", [0, 1])
def test_a_mask_that_is_made_anew_in_each_pass_stays_too(overlap_steps: int) -> None:
    mask = torch.full((3, 3), -INF).triu(1)

    def grow(buffer: Tensor) -> Tensor:
        size = len(buffer) + 1
        return torch.full((size, size), -INF).triu(1)

    found, _ = trained(lambda _: WithBuffer(mask.clone(), grow), overlap_steps=overlap_steps)
    for buffer in found:
        assert torch.equal(buffer, torch.full((7, 7), -INF).triu(1))


def test_an_infinite_statistic_of_one_worker_does_not_spread() -> None:
    """Such as a range observer's, which begins at infinity."""

    def observe(buffer: Tensor) -> Tensor:
        return torch.ones_like(buffer)

    def make(worker: int) -> WithBuffer:
        return WithBuffer(torch.full((2,), INF), observe if worker == 0 else None)

    found, _ = trained(make)
    assert [buffer.tolist() for buffer in found] == [[1.0, 1.0], [1.0, 1.0]]


BUFFERS = [
    torch.polar(torch.ones(3), torch.arange(3.0)),
    torch.tensor([2**53 + 1, -(2**60) - 1]),
    torch.tensor([True, False]),
    torch.tensor([1.5, 2.5], dtype=torch.bfloat16),
    torch.tensor([250, 3], dtype=torch.uint8),
    torch.tensor([1.5, -2.0]).to(torch.float8_e4m3fn),
    torch.zeros(0),
]


@pytest.mark.parametrize("buffer", BUFFERS, ids=lambda buffer: str(buffer.dtype))
def test_every_dtype_is_kept_bit_for_bit(buffer: Tensor) -> None:
    found, _ = trained(lambda _: WithBuffer(buffer.clone()))
    assert [bits(own) for own in found] == [bits(buffer)] * 2


def each_rank_starts_with_its_own(rank: int) -> list[tuple[str, list[int]]]:
    models = [WithBuffer(buffer.clone()) for buffer in BUFFERS]
    if rank > 0:
        for own in models:
            own.buffer.zero_()
    model = nn.ModuleList(models)
    grawa.Averager(model, torch.optim.SGD(model.parameters(), lr=0.1), grawa.LGRAWA())
    return [bits(own.get_buffer("buffer")) for own in models]


def bits(tensor: Tensor) -> tuple[str, list[int]]:
    return str(tensor.dtype), tensor.detach().view(torch.uint8).tolist()


def first_buffers() -> list[tuple[str, list[int]]]:
    return each_rank_starts_with_its_own(dist.get_rank())


@pytest.mark.world
def test_all_ranks_begin_with_the_buffers_of_worker_0_bit_for_bit() -> None:
    for found in on_ranks(2, first_buffers):
        assert found == [bits(buffer) for buffer in BUFFERS]


CHANGES: list[tuple[Tensor, Callable[[int], Callable[[Tensor], Tensor]], list[float]]] = [
    (torch.zeros(2), lambda k: lambda b: b + 2 * k, [2.0, 2.0]),  # means of 0 and 2, then of 2, 4
    (torch.zeros(2, dtype=torch.int64), lambda k: lambda b: b + 2**60 * k, [2.0**61] * 2),
    (torch.zeros(2, dtype=torch.bool), lambda k: lambda b: b | (k > 0), [1.0, 1.0]),
]


@pytest.mark.parametrize(("buffer", "change", "expected"), CHANGES, ids=["float", "int", "bool"])
def test_buffers_that_change_become_their_mean_or_their_maximum(
    buffer: Tensor, change: Callable[[int], Callable[[Tensor], Tensor]], expected: list[float]
) -> None:
    found, _ = trained(lambda k: WithBuffer(buffer.clone(), change(k)), steps=2)
    assert [own.tolist() for own in found] == [expected, expected]


def test_what_does_not_change_or_is_not_persistent_costs_nothing() -> None:
    mask = torch.ones(256, 256, dtype=torch.bool).tril()
    _, plain = trained(lambda _: WithBuffer(torch.zeros(0)), 4, 8)
    _, masked = trained(lambda _: WithBuffer(mask.clone()), 4, 8)
    _, growing = trained(lambda k: WithBuffer(mask.clone(), lambda b: ~b, kept=False), 4, 8)
    assert masked.bytes_sent == plain.bytes_sent
    assert growing.bytes_sent < plain.bytes_sent


def test_a_nan_in_a_buffer_leaves_its_worker_out() -> None:
    def make(worker: int) -> WithBuffer:
        return WithBuffer(torch.zeros(2), (lambda b: b + torch.nan) if worker == 2 else None)

    reports: list[grawa.RoundReport] = []
    models = [make(k) for k in range(3)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    with grawa.Averager(
        models, optimizers, grawa.LGRAWA(), sync_every=2, on_round=[reports.append]
    ):
        for _ in range(2):
            for model in models:
                model(torch.randn(4, 3)).square().mean().backward()
            for optimizer in optimizers:
                optimizer.step()
    assert list(reports[0].left_out) == [2]
    assert all(torch.equal(model.get_buffer("buffer"), torch.zeros(2)) for model in models)


def buffers_of_different_shapes(grows: str) -> None:
    rank = dist.get_rank()
    torch.manual_seed(0)
    size = 4 + rank if grows == "at the start" else 4
    model = WithBuffer(torch.zeros(size))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with grawa.Averager(
        model, optimizer, grawa.LGRAWA(), sync_every=2, timeout=timedelta(seconds=20)
    ):
        for step in range(4):
            optimizer.zero_grad()
            model(torch.randn(4, 3)).square().mean().backward()
            optimizer.step()
            if step == 2 and rank == 1:
                model.buffer = torch.zeros(9)


@pytest.mark.world
@pytest.mark.parametrize(
    ("grows", "message"),
    [
        ("at the start", "has a different model from worker 0"),
        ("later", "'buffer' has another shape"),
    ],
)
def test_buffers_of_different_shapes_are_one_clear_error_on_every_rank(
    grows: str, message: str
) -> None:
    found = outcomes(2, buffers_of_different_shapes, grows)
    assert all(isinstance(error, grawa.UserError) and message in str(error) for error in found)
    assert len(set(map(str, found))) == 1


def test_states_tell_what_has_happened_to_a_buffer() -> None:
    model = WithBuffer(torch.tensor([1.0, torch.nan]))
    buffers = Buffers([model])
    buffers.remember()

    def state() -> int:
        return int(buffers.states(buffers.rows(), torch.device("cpu")))

    assert state() == BufferState.ODD
    for value, expected in [(2.0, 1), (INF, 2), (torch.nan, 3)]:
        model.get_buffer("buffer").fill_(value)
        assert state() == expected
    model.buffer = torch.tensor([1.0, torch.nan])
    assert state() == BufferState.ODD


def test_values_that_are_equal_are_kept_when_others_are_averaged() -> None:
    rows = torch.tensor([[0.1, -INF, 1.0, INF], [0.1, -INF, 2.0, 3.0], [9.0, 9.0, 9.0, 9.0]])
    agreed = combine(rows, torch.tensor([True, True, False]))
    assert agreed.tolist() == [rows[0, 0].item(), -INF, 1.5, 3.0]


@pytest.mark.parametrize("kind", ["coo", "csr"])
def test_sparse_buffers_are_left_alone(kind: str) -> None:
    def make(worker: int) -> WithBuffer:
        dense = torch.eye(3)
        return WithBuffer(dense.to_sparse() if kind == "coo" else dense.to_sparse_csr())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that its CSR support is in beta
        found, averager = trained(make)
    assert averager.round == 2
    assert all(torch.equal(buffer.to_dense(), torch.eye(3)) for buffer in found)


def sparse_buffers_that_differ() -> None:
    torch.manual_seed(0)
    model = WithBuffer((torch.eye(3) * (1 + dist.get_rank())).to_sparse())
    grawa.Averager(model, torch.optim.SGD(model.parameters(), lr=0.1), grawa.LGRAWA())


@pytest.mark.world
def test_sparse_buffers_that_differ_are_refused() -> None:
    for error in outcomes(2, sparse_buffers_that_differ):
        assert isinstance(error, grawa.UserError)
        assert "worker 1 has different values from worker 0" in str(error)


def test_buffers_are_found_again_in_a_module_that_was_replaced() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    buffers = Buffers([model])
    buffers.remember()
    model[0] = norm = nn.BatchNorm1d(2)
    norm(torch.rand(4, 2))
    rows, mean = buffers.rows(), norm.get_buffer("running_mean")
    assert rows["0.running_mean"].data_ptr() == mean.data_ptr()
    assert buffers.states(rows, torch.device("cpu")).tolist() == [[1.0, 1.0, 1.0]]


def test_a_buffer_that_is_gone_is_named() -> None:
    norm = nn.BatchNorm1d(2)
    buffers = Buffers([nn.Sequential(norm)])
    norm.running_var = None
    with pytest.raises(grawa.UserError, match=r"no longer has the buffer '0.running_var'"):
        buffers.rows()
