"""Workers in real processes over real sockets: what they exchange, and what can go wrong."""

import gc
import math
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Literal
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import SGD

import grawa
from grawa.comm import DistributedCommunicator, InProcessCommunicator
from grawa.comm.mailboxes import Mailboxes
from grawa.comm.pool import ranks_of
from tests.helpers import Fleet, batches, flat_state, mlp, poison, sgd
from tests.world import on_ranks, outcomes, start_anew

pytestmark = pytest.mark.world

WORKERS = 4

# What a model may hold: one element, none but itself, sizes that no number of processes divides,
# one leaf larger than all others together, two dtypes, leaves without elements.
SHAPES: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
    "empty": ((0, 3), torch.float64),
    "one": ((1,), torch.float64),
    "scalar": ((), torch.float64),
    "huge": ((1003,), torch.float64),
    "narrow": ((7, 3), torch.float32),
    "image": ((2, 3, 5, 4), torch.float64),
    "narrow scalar": ((), torch.float32),
    "narrow empty": ((3, 0), torch.float32),
}


def rows_of(workers: range, divisible: bool = False) -> dict[str, Tensor]:
    """Some workers' rows of leaves, one of which is channels-last."""
    shapes = {"a": ((8, 3), torch.float64), "b": ((4,), torch.float32)} if divisible else SHAPES
    rows = {
        name: torch.stack([
            torch.randn(
                shape,
                generator=torch.Generator().manual_seed(100 * worker + leaf),
                dtype=torch.float64,
            ).to(dtype)
            for worker in workers
        ])
        for leaf, (name, (shape, dtype)) in enumerate(shapes.items())
    }
    if "image" in rows:
        k, channels, height, width, depth = rows["image"].shape
        last = torch.empty(k, height, width, depth, channels, dtype=torch.float64)
        last = last.permute(0, 4, 1, 2, 3)
        rows["image"] = last.copy_(rows["image"])
    return rows


def hosted_here() -> range:
    each = WORKERS // dist.get_world_size()
    return range(dist.get_rank() * each, (dist.get_rank() + 1) * each)


def random_weights(columns: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.rand(WORKERS, columns, generator=generator, dtype=torch.float64) + 0.01


def some_zero() -> Tensor:
    """Every worker has weight zero in some column, and one worker in all of them."""
    weights = random_weights(len(SHAPES))
    weights[2] = 0.0
    for column in range(len(SHAPES)):
        weights[(0, 1, 3)[column % 3], column] = 0.0
    return weights


WEIGHTS = {
    "equal": torch.full((WORKERS, 1), 1 / WORKERS, dtype=torch.float64),
    "one for all leaves": random_weights(1),
    "one for each leaf": random_weights(len(SHAPES)),
    "leader": torch.tensor([[0.0], [0.0], [1.0], [0.0]], dtype=torch.float64),
    "not normalised, some zero": 7.0 * some_zero(),
}


@contextmanager
def over_a_network() -> Generator[None]:
    """As if every process had a machine of its own, and messages were longer than a piece."""
    with (
        patch("grawa.comm.hosts.this_machine", dist.get_rank),
        patch("grawa.comm.messages.PIECE_BYTES", 100),
    ):
        yield


def mean_there(weights: Tensor, spoil: bool, repeat: int) -> dict[str, Tensor]:
    """As `mean_here`, over a network."""
    with over_a_network():
        return mean_here(weights, spoil, repeat)


@contextmanager
def on_two_hosts() -> Generator[None]:
    """As if the first half of the processes were on one host, and the others on another."""
    half = dist.get_world_size() // 2
    with (
        over_a_network(),
        patch("grawa.comm.hosts.this_machine", lambda: int(dist.get_rank() >= half)),
    ):
        yield


def mean_on_hosts(weights: Tensor, spoil: bool, repeat: int) -> dict[str, Tensor]:
    """As `mean_there`, with half of the processes on each host."""
    with on_two_hosts():
        return mean_here(weights, spoil, repeat)


def mean_on_uneven_hosts(weights: Tensor, spoil: bool, repeat: int) -> dict[str, Tensor]:
    """As `mean_there`, where the last process has a host of its own, and in small chunks."""
    last = dist.get_world_size() - 1
    with (
        over_a_network(),
        patch("grawa.comm.hosts.this_machine", lambda: int(dist.get_rank() == last)),
        patch.object(Mailboxes, "most_bytes", 1000),
    ):
        return mean_here(weights, spoil, repeat)


def mean_by_messages(weights: Tensor, spoil: bool, repeat: int) -> dict[str, Tensor]:
    """As `mean_here`, without shared memory."""
    return mean_here(weights, spoil, repeat, shared_memory=False)


def mean_in_chunks(weights: Tensor, spoil: bool, repeat: int) -> dict[str, Tensor]:
    """As `mean_here`, a few elements at a time."""
    with patch.object(Mailboxes, "most_bytes", 1000):
        return mean_here(weights, spoil, repeat)


def mean_here(weights: Tensor, spoil: bool, repeat: int, **options: Any) -> dict[str, Tensor]:
    """The mean as this process gets it; rows without weight hold NaN and infinity."""
    hosted = hosted_here()
    rows = rows_of(hosted)
    if spoil:
        for leaf, values in enumerate(rows.values()):
            for k, worker in enumerate(hosted):
                if not weights[worker, leaf % weights.shape[1]]:
                    values[k] = math.nan if leaf % 2 else math.inf
    comm = DistributedCommunicator(num_hosted=len(hosted), **options)
    mean = comm.weighted_mean(rows, weights)
    for _ in range(repeat):
        again = comm.weighted_mean(rows, weights, mean)
        assert again is mean
    assert all(mean[name].stride() == rows[name].stride()[1:] for name in rows)
    comm.release()
    return dict(mean)


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("spoil", [False, True], ids=["finite", "NaN without weight"])
@pytest.mark.parametrize(
    "mean",
    [
        mean_here,
        mean_in_chunks,
        mean_by_messages,
        mean_there,
        mean_on_hosts,
        mean_on_uneven_hosts,
    ],
)
def test_the_mean_is_the_dense_one_and_the_same_bits_everywhere(
    weights: Tensor, processes: int, spoil: bool, mean: Callable[..., dict[str, Tensor]]
) -> None:
    found = on_ranks(processes, mean, weights, spoil, repeat=1)
    everyone = rows_of(range(WORKERS))
    for leaf, (name, values) in enumerate(everyone.items()):
        column = weights[:, leaf % weights.shape[1]]
        dense = torch.einsum("n...,n->...", values.double(), column / column.sum())
        tolerance = 1e-14 if values.dtype == torch.float64 else 1e-6
        for its in found:
            assert its[name].dtype == values.dtype
            assert torch.equal(its[name], found[0][name])
            torch.testing.assert_close(its[name].double(), dense, rtol=0.0, atol=tolerance)


def equal_rows_on_hosts(dtype: torch.dtype) -> bool:
    with on_two_hosts():
        return mean_of_equal_rows(dtype, True)


def mean_of_equal_rows(dtype: torch.dtype, shared_memory: bool) -> bool:
    row = torch.linspace(-1.0, 1.0, 999).to(dtype)
    hosted = WORKERS // dist.get_world_size()
    comm = DistributedCommunicator(num_hosted=hosted, shared_memory=shared_memory)
    weights = torch.tensor([[0.1], [0.7], [0.3], [1e-9]], dtype=torch.float64)
    return torch.equal(comm.weighted_mean({"x": row.expand(hosted, -1)}, weights)["x"], row)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("shared_memory", [True, False])
def test_equal_rows_give_that_row_bit_for_bit(
    dtype: torch.dtype, processes: int, shared_memory: bool
) -> None:
    assert on_ranks(processes, mean_of_equal_rows, dtype, shared_memory) == [True] * processes
    assert on_ranks(processes, equal_rows_on_hosts, dtype) == [True] * processes


def narrow_mean_on_hosts(dtype: torch.dtype) -> Tensor:
    with on_two_hosts():
        return narrow_mean(dtype)


def narrow_mean(dtype: torch.dtype) -> Tensor:
    hosted = hosted_here()
    comm = DistributedCommunicator(num_hosted=len(hosted))
    return comm.weighted_mean({"x": narrow_rows(dtype)[hosted.start : hosted.stop]}, NARROW)["x"]


def narrow_rows(dtype: torch.dtype) -> Tensor:
    return torch.randn(WORKERS, 1000, generator=torch.Generator().manual_seed(1)).to(dtype)


NARROW = torch.tensor([[0.4], [0.3], [0.2], [0.1]], dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_16_bit_rows_are_summed_in_float32_and_rounded_once(
    dtype: torch.dtype, processes: int
) -> None:
    exact = (narrow_rows(dtype).double() * NARROW).sum(dim=0)
    means = on_ranks(processes, narrow_mean, dtype)
    for mean in (*means, *on_ranks(4, narrow_mean_on_hosts, dtype)):
        half_an_ulp = exact.abs() * torch.finfo(dtype).eps / 2
        assert bool(((mean.double() - exact).abs() <= half_an_ulp + 1e-6).all())


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_weights_that_make_no_mean_are_refused_everywhere(weight: float) -> None:
    weights = torch.tensor([[weight], [1.0], [1.0], [1.0]], dtype=torch.float64)
    for outcome in outcomes(4, mean_here, weights, spoil=False, repeat=0):
        wrong = ValueError if weight < 0 else grawa.DivergedError
        assert isinstance(outcome, wrong)
        assert "weight" in str(outcome)


def bytes_here(weights: Tensor) -> int:
    """What this process sends for one mean."""
    hosted = hosted_here()
    comm = DistributedCommunicator(num_hosted=len(hosted))
    comm.weighted_mean(rows_of(hosted, divisible=True), weights)
    return comm.bytes_sent * len(hosted)


MODEL_BYTES = 24 * 8 + 4 * 4


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_a_mean_costs_twice_the_model_for_each_other_process(processes: int) -> None:
    sent = on_ranks(processes, bytes_here, WEIGHTS["equal"])
    # Each process sends (P-1)/P of the model in either phase.
    assert sent == [2 * (processes - 1) * MODEL_BYTES // processes] * processes


def test_who_alone_has_weight_sends_the_model_once_and_gets_nothing_back() -> None:
    sent = on_ranks(4, bytes_here, WEIGHTS["leader"])
    # The others own 8 of 24 elements in float64 each, and 2, 2 and 0 of 4 in float32.
    sections = [8 * 8 + 2 * 4, 8 * 8 + 2 * 4, 0, 8 * 8]
    assert sent == [MODEL_BYTES if rank == 2 else 2 * own for rank, own in enumerate(sections)]


def test_rows_without_weight_are_not_sent() -> None:
    weights = torch.tensor([[1.0], [0.0], [1.0], [0.0]], dtype=torch.float64)
    phase = 3 * MODEL_BYTES // 4
    assert on_ranks(4, bytes_here, weights) == [2 * phase, phase, 2 * phase, phase]


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_four_processes_send_what_the_simulation_says(weights: Tensor) -> None:
    weights = weights[:, :2]
    simulated = InProcessCommunicator(WORKERS)
    simulated.weighted_mean(rows_of(range(WORKERS), divisible=True), weights)
    assert sum(on_ranks(4, bytes_here, weights)) // WORKERS == simulated.bytes_sent


def gather_here() -> tuple[Tensor, Tensor, int, int]:
    hosted = hosted_here()
    comm = DistributedCommunicator(num_hosted=len(hosted))
    mine = torch.tensor([[float(worker), 10.0 * worker] for worker in hosted]).double()
    gathered = comm.gather(mine)()
    assert torch.equal(comm.hosted(gathered), mine)
    return gathered, comm.hosted(gathered), comm.num_workers, comm.bytes_sent


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_everyone_hears_everyones_row(processes: int) -> None:
    for gathered, mine, workers, sent in on_ranks(processes, gather_here):
        assert gathered.tolist() == [[float(worker), 10.0 * worker] for worker in range(WORKERS)]
        assert gathered.dtype == torch.float64
        assert len(mine) == WORKERS // processes
        assert workers == WORKERS
        assert sent == (processes - 1) * 2 * 8


def gather_any(dtype: torch.dtype, shared_memory: bool) -> Tensor:
    """Rows of no columns, then of some; two are on their way at once."""
    comm = DistributedCommunicator(shared_memory=shared_memory)
    rank = dist.get_rank()
    assert comm.gather(torch.empty(1, 0, dtype=dtype))().shape == (4, 0)
    first = comm.gather(special(dtype)[rank : rank + 1])
    second = comm.gather(torch.zeros(1, 3))
    found = first()
    assert second().shape == (4, 3)
    return found


def gather_any_on_hosts(dtype: torch.dtype) -> Tensor:
    with over_a_network(), patch("grawa.comm.hosts.this_machine", lambda: dist.get_rank() // 3):
        return gather_any(dtype, True)


def special(dtype: torch.dtype) -> Tensor:
    """Values that another dtype would lose, (4, 2)."""
    if dtype == torch.bool:
        return torch.tensor([[True, False], [False, True], [True, True], [False, False]])
    if dtype == torch.int64:
        return torch.tensor([[2**53 + 1, -(2**63)], [2**63 - 1, 0], [3, 4], [5, 6]])
    values = torch.tensor([[math.nan, -math.inf], [-0.0, 1.0], [2.0, 3.0], [1 / 3, 5.0]]).double()
    return torch.complex(values, values.flip(0)) if dtype.is_complex else values.to(dtype)


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.int64, torch.complex128, torch.bfloat16, torch.float64]
)
@pytest.mark.parametrize("shared_memory", [True, False])
def test_rows_of_any_dtype_arrive_bit_for_bit(dtype: torch.dtype, shared_memory: bool) -> None:
    expected = special(dtype)
    everyone = on_ranks(4, gather_any, dtype, shared_memory)
    for found in (*everyone, *on_ranks(4, gather_any_on_hosts, dtype)):
        assert found.dtype == dtype
        assert found.untyped_storage().tolist() == expected.untyped_storage().tolist()


def average_integers() -> None:
    comm = DistributedCommunicator()
    comm.weighted_mean({"count": torch.zeros(1, 3, dtype=torch.int64)}, torch.ones(2, 1))


def test_what_can_not_be_averaged_is_refused_by_name() -> None:
    for outcome in outcomes(2, average_integers):
        assert isinstance(outcome, grawa.UserError)
        assert "'count' is of torch.int64, which can't be averaged" in str(outcome)


def team_means() -> list[tuple[int, int, float]]:
    hosted = hosted_here()
    comm = DistributedCommunicator(num_hosted=len(hosted))
    rows = {"x": torch.tensor([[float(worker)] for worker in hosted], dtype=torch.float64)}
    equal = torch.full((2, 1), 0.5, dtype=torch.float64)
    return [
        (
            team.workers.start,
            team.workers.stop,
            float(team.transport.weighted_mean({"x": rows["x"][team.hosted]}, equal)["x"]),
        )
        for team in comm.split(2)
    ]


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_teams_average_among_themselves(processes: int) -> None:
    found = on_ranks(processes, team_means)
    for rank, teams in enumerate(found):
        hosted = range(rank * WORKERS // processes, (rank + 1) * WORKERS // processes)
        expected = [(0, 2, 0.5), (2, 4, 2.5)]
        assert teams == [team for team in expected if set(range(*team[:2])) & set(hosted)]


def split_here(size: int) -> None:
    DistributedCommunicator(num_hosted=len(hosted_here())).split(size)


@pytest.mark.parametrize(("processes", "size"), [(4, 3), (2, 3), (4, 0)])
def test_teams_that_leave_workers_over_are_refused_everywhere(processes: int, size: int) -> None:
    for outcome in outcomes(processes, split_here, size):
        assert isinstance(outcome, grawa.UserError)
        assert f"4 workers can't be split into teams of {size}" in str(outcome)


def join_from_outside(how: str) -> int:
    """Ranks 0 and 1 average; the others try to."""
    group = dist.new_group([0, 1])
    ranks = ranks_of(group) if how == "group" else [0, 1]
    return DistributedCommunicator(ranks).num_workers


@pytest.mark.parametrize("how", ["group", "ranks"])
def test_ranks_outside_the_process_group_are_told_so(how: str) -> None:
    found = outcomes(4, join_from_outside, how)
    assert found[:2] == [2, 2]
    for rank, outcome in enumerate(found[2:], start=2):
        assert isinstance(outcome, grawa.UserError)
        assert f"rank {rank} is not" in str(outcome)


def make_and_release(times: int) -> tuple[list[int], list[int]]:
    """Descriptors and threads after each of some communicators."""
    descriptors, threads = [], []
    for _ in range(times):
        comm = DistributedCommunicator()
        comm.weighted_mean({"x": torch.ones(1, 1000)}, WEIGHTS["equal"])
        comm.gather(torch.ones(1, 3))()
        assert comm.count(1) >= 1
        for team in comm.split(2):
            team.transport.gather(torch.ones(1, 1))()
        comm.release()
        gc.collect()
        descriptors.append(len(os.listdir("/proc/self/fd")))
        threads.append(len(os.listdir("/proc/self/task")))
    return descriptors, threads


def test_communicators_that_are_released_leave_nothing_behind() -> None:
    start_anew()
    for descriptors, threads in on_ranks(4, make_and_release, 10):
        assert descriptors == descriptors[:1] * 10
        assert threads == threads[:1] * 10


def make_and_forget(times: int) -> tuple[int, int]:
    """Threads after the first and after the last of communicators that nobody has released."""
    found = []
    for _ in range(times):
        comm = DistributedCommunicator()
        comm.gather(torch.ones(1, 3))()
        dist.barrier()  # all have all messages
        del comm
        gc.collect()
        found.append(len(os.listdir("/proc/self/task")))
    return found[0], found[-1]


def test_communicators_that_are_forgotten_end_with_their_last_user() -> None:
    start_anew()
    for first, last in on_ranks(4, make_and_forget, 4):
        assert first == last


def start_as_worker_0() -> tuple[int, bool]:
    """What each process sends so that all start from worker 0, and whether they do."""
    row = torch.arange(1001.0).view(1, 1001)
    comm = DistributedCommunicator()
    first = torch.tensor([[1.0], [0.0], [0.0], [0.0]], dtype=torch.float64)
    mean = comm.weighted_mean({"x": row + dist.get_rank()}, first)
    return comm.bytes_sent, torch.equal(mean["x"], row[0])


def test_a_common_start_costs_no_process_more_than_the_model() -> None:
    found = on_ranks(4, start_as_worker_0)
    assert all(equal for _, equal in found)
    assert found[0][0] == 1001 * 4
    assert max(sent for sent, _ in found) == 1001 * 4


# Starting together


def start_together() -> tuple[Tensor, Tensor]:
    """Each process begins with a model of its own; what it has when the Averager is made."""
    model = nn.Sequential(mlp(seed=dist.get_rank()), nn.BatchNorm1d(2).double())
    with torch.no_grad():
        for buffer in model.buffers():
            buffer.fill_(3 + dist.get_rank())
    grawa.Averager(model, sgd(model), grawa.LGRAWA())
    buffers = torch.cat([buffer.double().flatten() for buffer in model.buffers()])
    return flat_state(model, model.state_dict()), buffers


def test_all_workers_start_from_worker_0() -> None:
    found = on_ranks(4, start_together)
    expected = mlp(seed=0).state_dict()
    for params, buffers in found:
        assert torch.equal(params, found[0][0])
        assert torch.equal(params[:24], expected["0.weight"].flatten())
        assert bool((buffers == 3).all())


Difference = Literal[
    "shape",
    "dtype",
    "name",
    "buffer",
    "strategy",
    "option",
    "sync_every",
    "guard",
    "buffers",
    "distance",
    "optimizer lacks a parameter",
    "optimizer of another model",
    "hosts two workers",
]


def start_differently(difference: Difference, odd: int) -> None:
    """Makes an Averager; on one rank, with something else than on the others."""
    is_odd = dist.get_rank() == odd
    other = difference if is_odd else ""
    model: nn.Module = mlp()
    if other == "shape":
        model = nn.Sequential(nn.Linear(3, 9), nn.Tanh(), nn.Linear(9, 2)).double()
    if other == "dtype":
        model = mlp(torch.float32)
    if other == "name":
        model = nn.Sequential(nn.Identity(), mlp())
    if other == "buffer":
        model.register_buffer("extra", torch.zeros(1))
    optimizer = sgd(model)
    if other == "optimizer lacks a parameter":
        optimizer = SGD(list(model.parameters())[1:], lr=0.1)
    if other == "optimizer of another model":
        optimizer = sgd(mlp())
    strategy: grawa.Strategy = grawa.LGRAWA(pull=0.4 if other == "option" else 0.5)
    if other == "strategy":
        strategy = grawa.LocalSGD()
    hosted = [model, mlp()] if other == "hosts two workers" else [model]
    grawa.Averager(
        hosted,
        [optimizer, *(sgd(more) for more in hosted[1:])],
        strategy,
        sync_every=16 if other == "sync_every" else 32,
        guard=None if other == "guard" else grawa.Guard(),
        buffers="local" if other == "buffers" else "average",
        measure_distance=other == "distance",
        timeout=timedelta(seconds=10),
    )


@pytest.mark.parametrize("odd", [0, 3])
@pytest.mark.parametrize("difference", Difference.__args__)  # type: ignore[attr-defined]
def test_what_differs_between_processes_is_a_user_error_on_all_of_them(
    difference: Difference, odd: int
) -> None:
    found = outcomes(4, start_differently, difference, odd)
    assert [type(outcome) for outcome in found] == [grawa.UserError] * 4
    for rank, outcome in enumerate(found):
        if "optimizer" in difference and rank == odd:
            assert "the optimizer" in str(outcome)
        elif difference == "hosts two workers":
            numbers = [2 if rank == odd else 1 for rank in range(4)]
            assert f"every process must host the same number of workers, got {numbers}" in str(
                outcome
            )
        else:
            # Against worker 0, who is taken for right.
            named = odd if "optimizer" in difference or odd else 1
            assert f"worker {named} " in str(outcome)
            assert "every process must make the same model" in str(outcome)


# Leaving at different times


def uneven(strategy: grawa.Strategy, steps: tuple[int, ...]) -> tuple[int, int, Tensor, Tensor]:
    own = steps[dist.get_rank()]
    data = batches(max(steps), WORKERS).workers([dist.get_rank()])
    fleet = Fleet(1)
    with grawa.Averager(fleet.models, fleet.optimizers, strategy, sync_every=4) as averager:
        fleet.train(data.steps(0, own), averager)
    consensus = flat_state(fleet.models[0], averager.consensus())
    return averager.step, averager.round, fleet.parameters()[0], consensus


UNEVEN = (20, 20, 17, 12)


@pytest.mark.parametrize(
    "strategy",
    [grawa.LGRAWA(), grawa.LocalSGD(), grawa.EASGD()],
    ids=lambda strategy: type(strategy).__name__,
)
def test_who_runs_out_of_data_goes_on_taking_part_in_rounds(strategy: grawa.Strategy) -> None:
    found = on_ranks(4, uneven, strategy, UNEVEN)
    assert [steps for steps, *_ in found] == list(UNEVEN)
    assert [rounds for _, rounds, *_ in found] == [5] * 4
    for *_, params, consensus in found:
        assert bool(torch.isfinite(params).all())
        assert torch.equal(consensus, found[0][3])


def test_sharing_gradients_needs_as_many_steps_of_everyone() -> None:
    for outcome in outcomes(4, uneven, grawa.DataParallel(), UNEVEN):
        assert isinstance(outcome, grawa.UserError)
        assert "by workers 0, 1, 2; " in str(outcome) and "`with` block by worker 3" in str(outcome)


def forced() -> tuple[int, bool]:
    """A round that is asked for, before the first is due."""
    fleet = Fleet(1)
    data = batches(2, WORKERS).workers([dist.get_rank()])
    averager = grawa.Averager(fleet.models, fleet.optimizers, grawa.LocalSGD(), guard=None)
    with averager:
        fleet.train(data, averager)
        averager.synchronize()
        params = fleet.parameters()
        rounds = averager.round
    return rounds, torch.equal(fleet.parameters(), params)


def test_a_round_can_be_forced() -> None:
    # Afterwards nobody makes a step, so there is nothing to be done on leaving.
    assert on_ranks(4, forced) == [(1, True)] * 4


# Who averages


def pairs_apart(together: bool) -> tuple[int, Tensor]:
    """Two pairs of processes, each of which averages for itself; or one pair."""
    rank = dist.get_rank()
    group = None
    if not together:
        pairs = [dist.new_group([0, 1]), dist.new_group([2, 3])]
        group = pairs[rank // 2]
    fleet = Fleet(1, partial(mlp, seed=rank // 2))
    data = batches(6, WORKERS).workers([rank])
    with grawa.Averager(
        fleet.models, fleet.optimizers, grawa.LGRAWA(), sync_every=2, process_group=group
    ) as averager:
        fleet.train(data, averager)
    return averager.num_workers, fleet.parameters()[0]


def test_a_process_group_picks_who_averages() -> None:
    apart = on_ranks(4, pairs_apart, together=False)
    alone = on_ranks(2, pairs_apart, together=True)
    assert [workers for workers, _ in apart] == [2] * 4
    for (_, params), (_, expected) in zip(apart[:2], alone, strict=True):
        assert torch.equal(params, expected)
    assert not torch.equal(apart[2][1], apart[0][1])
    # The other pair began from its own first worker, rank 2, not from rank 0.
    assert float((apart[2][1] - apart[3][1]).norm()) < float((apart[2][1] - apart[0][1]).norm())


# Workers that go wrong


def all_broken() -> None:
    fleet = Fleet(1)
    data = batches(2, WORKERS).workers([dist.get_rank()])
    averager = grawa.Averager(fleet.models, fleet.optimizers, grawa.LGRAWA(), sync_every=2)
    with averager:
        poison(fleet.models[0])
        fleet.train(data, averager)


def test_when_all_are_nan_everyone_hears_that_training_has_diverged() -> None:
    for outcome in outcomes(4, all_broken):
        assert isinstance(outcome, grawa.DivergedError)
        assert "all 4 workers have diverged" in str(outcome)


TIMEOUT_SECONDS = 2.0


def a_silent_rank(silent_at: str) -> float:
    """Rank 1 falls silent; how long the others waited before they knew, in seconds."""
    fleet = Fleet(1)
    data = batches(4, WORKERS).workers([dist.get_rank()])
    began = time.monotonic()

    def is_silent(where: str) -> bool:
        nonlocal began
        began = time.monotonic()
        return dist.get_rank() == 1 and silent_at == where

    try:
        if is_silent("the start"):
            return 0.0
        averager = grawa.Averager(
            fleet.models,
            fleet.optimizers,
            grawa.LSGD(team_size=2),
            sync_every=2,
            timeout=timedelta(seconds=TIMEOUT_SECONDS),
        )
        averager.attach()
        fleet.train(data.steps(0, 3), averager)
        if is_silent("a round"):
            return 0.0
        fleet.train(data.steps(3, 4), averager)
        if is_silent("the consensus"):
            return 0.0
        averager.consensus()
        if is_silent("the end"):
            return 0.0
        averager.detach()
    except grawa.CommunicationError as error:
        assert "rank" in str(error)
        return time.monotonic() - began
    raise AssertionError("no error")


@pytest.mark.parametrize("silent_at", ["the start", "a round", "the consensus", "the end"])
def test_a_rank_that_never_comes_is_noticed_within_the_timeout(silent_at: str) -> None:
    waited = on_ranks(4, a_silent_rank, silent_at)
    assert not waited[1]
    assert all(0.0 < seconds < TIMEOUT_SECONDS + 10.0 for seconds in waited[:1] + waited[2:])
