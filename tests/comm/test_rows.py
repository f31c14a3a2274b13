"""The workers' rows side by side: functions of columns, and distances, against dense ones."""

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from copy import deepcopy
from datetime import timedelta
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import grawa
from grawa.comm import Compression, DistributedCommunicator, InProcessCommunicator, Participants
from grawa.comm.gloo_world import OwnStore
from grawa.comm.mailboxes import Mailboxes
from grawa.comm.present import ElasticCommunicator
from grawa.comm.protocol import Transport
from grawa.lab.simulate.metered import Metered
from grawa.lab.simulate.network import Link, network_of
from grawa.math.codec import Precision
from grawa.math.columns import RowFunction
from grawa.math.leaves import Leaves
from grawa.math.order import median
from tests.comm.test_distributed import on_two_hosts, over_a_network, rows_of
from tests.world import on_ranks, outcomes

WORKERS = 8
EVERYONE = [True] * WORKERS
SOME = [True, False, True, True, False, False, True, True]
"""Of four processes with two workers each, the third has nobody who takes part."""


def mean(rows: Tensor) -> Tensor:
    """Its bits depend on how many columns there are, in torch."""
    return rows.mean(dim=0)


def largest(rows: Tensor) -> Tensor:
    return rows.amax(dim=0)


FUNCTIONS: dict[str, tuple[RowFunction, list[bool]]] = {
    "median": (median, EVERYONE),
    "median of five": (median, SOME),
    "mean": (mean, EVERYONE),
    "largest of some": (largest, SOME),
    "one worker alone": (mean, [worker == 3 for worker in range(WORKERS)]),
}


class Found(NamedTuple):
    reduced: dict[str, Tensor]
    distances: Tensor


def found_by(transport: Transport, hosted: range) -> dict[str, Found]:
    """What comes of all functions; rows that are left out hold NaN."""
    found = {}
    out: Leaves | None = None
    for name, (function, taking_part) in FUNCTIONS.items():
        active = torch.tensor(taking_part)
        rows = rows_of(hosted)
        for values in rows.values():
            values[~active[hosted.start : hosted.stop]] = math.nan
        comm = Participants(transport, active)
        out = comm.reduce_rows(rows, function, out)
        assert all(out[leaf].stride() == values.stride()[1:] for leaf, values in rows.items())
        reduced = {leaf: values.clone() for leaf, values in out.items()}
        found[name] = Found(reduced, comm.pairwise_distances(rows))
    return found


def found_here(**options: Any) -> dict[str, Found]:
    each = WORKERS // dist.get_world_size()
    comm = DistributedCommunicator(num_hosted=each, **options)
    found = found_by(comm, range(dist.get_rank() * each, (dist.get_rank() + 1) * each))
    comm.release()
    return found


@contextmanager
def on_uneven_hosts() -> Generator[None]:
    last = dist.get_world_size() - 1
    with (
        over_a_network(),
        patch("grawa.comm.hosts.this_machine", lambda: int(dist.get_rank() == last)),
    ):
        yield


def found_in_every_way() -> list[dict[str, Found]]:
    """By shared memory, at once and in chunks, by messages, over a network, and between hosts."""
    found = [found_here(), found_here(shared_memory=False)]
    with patch.object(Mailboxes, "most_bytes", 3000):
        found.append(found_here())
    for hosts in (over_a_network, on_two_hosts, on_uneven_hosts):
        with hosts():
            found.append(found_here())
    return found


ALONE = found_by(InProcessCommunicator(WORKERS), range(WORKERS))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_and_distances_are_those_of_all_rows_that_take_part(name: str) -> None:
    function, taking_part = FUNCTIONS[name]
    active = torch.tensor(taking_part)
    rows = {leaf: values[active] for leaf, values in rows_of(range(WORKERS)).items()}
    for leaf, values in rows.items():
        dense = function(values.reshape(len(values), -1)).view(values.shape[1:])
        torch.testing.assert_close(ALONE[name].reduced[leaf], dense, rtol=1e-6, atol=0.0)
    table = torch.cat([values.double().reshape(len(values), -1) for values in rows.values()], dim=1)
    distances = ALONE[name].distances
    assert bool(distances[~active].isinf().all()) and bool(distances[:, ~active].isinf().all())
    expected = torch.cdist(table, table, compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(distances[active][:, active], expected, rtol=1e-6, atol=0.0)


@pytest.mark.world
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_every_arrangement_gives_the_same_bits(processes: int) -> None:
    for ways in on_ranks(processes, found_in_every_way):
        for found in ways:
            for name, (reduced, distances) in ALONE.items():
                assert torch.equal(found[name].distances, distances)
                for leaf, values in reduced.items():
                    assert torch.equal(found[name].reduced[leaf], values)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("function", [median, mean])
def test_equal_rows_give_that_row_and_distances_of_zero(
    dtype: torch.dtype, function: RowFunction
) -> None:
    row = torch.linspace(-1.0, 1.0, 999).to(dtype)
    comm = Participants(InProcessCommunicator(4))
    assert torch.equal(comm.reduce_rows({"x": row.expand(4, -1)}, function)["x"], row)
    assert not bool(comm.pairwise_distances({"x": row.expand(4, -1)}).any())


def test_16_bit_rows_come_in_float32_and_the_result_is_rounded_once() -> None:
    rows = torch.randn(5, 1000, generator=torch.Generator().manual_seed(1)).bfloat16()
    seen: list[torch.dtype] = []

    def weighted(columns: Tensor) -> Tensor:
        seen.append(columns.dtype)
        return columns.mean(dim=0) + 1e-3

    comm = Participants(InProcessCommunicator(5))
    found = comm.reduce_rows({"x": rows}, weighted)["x"]
    assert set(seen) == {torch.float32}
    assert torch.equal(found, (rows.float().mean(dim=0) + 1e-3).bfloat16())
    assert comm.pairwise_distances({"x": rows})[0, 1] == pytest.approx(
        float((rows[0].double() - rows[1].double()).norm()), rel=1e-6
    )


def test_a_function_may_change_what_it_is_given() -> None:
    rows = {"x": torch.tensor([[3.0, 1.0], [2.0, 5.0]])}
    before = deepcopy(rows)
    Participants(InProcessCommunicator(2)).reduce_rows(rows, lambda own: own.zero_()[0])
    assert torch.equal(rows["x"], before["x"])


def test_one_row_that_is_far_away_does_not_blur_the_distances_of_others() -> None:
    rows = torch.randn(4, 3000, generator=torch.Generator().manual_seed(0))
    rows[2] += 1e6
    found = Participants(InProcessCommunicator(4)).pairwise_distances({"x": rows})
    torch.testing.assert_close(found[0, 1], (rows[0] - rows[1]).norm().double(), rtol=1e-5, atol=0)


def test_a_worker_that_is_nan_is_infinitely_far_from_the_others() -> None:
    rows = {"x": torch.tensor([[0.0, 0.0], [math.nan, 0.0], [3.0, 4.0]])}
    found = Participants(InProcessCommunicator(3)).pairwise_distances(rows)
    inf = math.inf
    assert found.tolist() == [[0.0, inf, 5.0], [inf, 0.0, inf], [5.0, inf, 0.0]]


@pytest.mark.parametrize(
    ("function", "given"),
    [
        (lambda rows: rows.median(dim=0), r"got median: take its \.values"),
        (lambda rows: rows.mean(dim=1), r"got \(3,\)"),
        (lambda rows: rows.mean(dim=0, keepdim=True), r"got \(1, 7\)"),
        (lambda rows: None, "got NoneType"),
    ],
)
def test_functions_of_something_else_are_refused(function: Any, given: str) -> None:
    comm = Participants(InProcessCommunicator(3))
    with pytest.raises(grawa.UserError, match=rf"for rows of shape \(3, .*{given}"):
        comm.reduce_rows({"x": torch.zeros(3, 20)}, function)


def test_rows_that_can_not_be_reduced_are_refused() -> None:
    comm = Participants(InProcessCommunicator(3))
    odd = {"count": torch.zeros(3, 2, dtype=torch.int64)}
    for call in (lambda: comm.reduce_rows(odd, median), lambda: comm.pairwise_distances(odd)):
        with pytest.raises(grawa.UserError, match=r"'count' is of torch\.int64, which can't"):
            call()
    nobody = Participants(InProcessCommunicator(3), torch.zeros(3))
    with pytest.raises(ValueError, match="at least one worker must take part"):
        nobody.reduce_rows({"x": torch.zeros(3, 2)}, median)


def test_distances_to_the_result_are_noted() -> None:
    rows = {"x": torch.tensor([[0.0], [1.0], [5.0]])}
    comm = Participants(InProcessCommunicator(3), measure=True)
    comm.reduce_rows(rows, median)
    assert comm.distances is not None and comm.distances.tolist() == [1.0, 0.0, 4.0]


# In fewer bits


def drifting(step: int, hosted: range) -> dict[str, Tensor]:
    """Rows that move apart from a common start, step after step."""
    start = torch.linspace(-1.0, 1.0, 301)
    moved = [start + 0.01 * step * torch.sin(start * 7.0 + i + step) for i in hosted]
    return {"a": torch.stack(moved)[:, :5], "b": torch.stack(moved)[:, 5:].double()}


def coded_here(precision: Precision) -> list[dict[str, Tensor]]:
    """Medians of three rounds, in which means are taken too; stopped and resumed in between."""
    size = dist.get_world_size() if dist.is_initialized() else 1
    each = WORKERS // size
    first = each * dist.get_rank() if size > 1 else 0
    transport: Transport = InProcessCommunicator(WORKERS)
    if size > 1:
        transport = DistributedCommunicator(num_hosted=each)
    start = Leaves.copy_of(drifting(0, range(first, first + each)))
    compression = Compression(precision, start)
    active, found = torch.tensor(SOME), []
    for step in range(1, 4):
        rows = drifting(step, range(first, first + each))
        comm = Participants(transport, active, compression)
        found.append(dict(comm.reduce_rows(rows, median)))
        if step == 2:
            comm.weighted_mean(rows, torch.full((WORKERS, 1), 1 / WORKERS, dtype=torch.float64))
            saved = compression.state_dict()
            compression = Compression(precision)
            compression.load_state_dict(saved)
    return found


@pytest.mark.world
@pytest.mark.parametrize(("precision", "bound"), [("bf16", 4e-4), ("int8", 1.6e-3)])
def test_in_fewer_bits_medians_are_near_the_exact_ones_and_the_same_everywhere(
    precision: Precision, bound: float
) -> None:
    alone = coded_here(precision)
    exact = Participants(InProcessCommunicator(WORKERS), torch.tensor(SOME))
    for step, medians in enumerate(alone, start=1):
        expected = exact.reduce_rows(drifting(step, range(WORKERS)), median)
        assert not torch.equal(medians["b"], expected["b"])
        for leaf, values in medians.items():
            assert float((values - expected[leaf]).abs().max()) <= bound
    for processes in (2, 4):
        for found in on_ranks(processes, coded_here, precision):
            for medians, own in zip(alone, found, strict=True):
                assert all(torch.equal(own[leaf], values) for leaf, values in medians.items())


def test_the_first_result_in_fewer_bits_is_a_difference_from_the_start() -> None:
    transport = InProcessCommunicator(WORKERS)
    rows = drifting(1, range(WORKERS))
    sizes = {}
    for reference in (None, Leaves.copy_of(drifting(0, range(WORKERS)))):
        before = transport.bytes_sent
        comm = Participants(transport, compression=Compression("int8", reference))
        comm.reduce_rows(rows, median)
        sizes[reference is None] = transport.bytes_sent - before
    assert sizes[False] < 0.2 * sizes[True]


# What is sent


def sent_here(call: Callable[[Participants, dict[str, Tensor]], object]) -> int:
    comm = DistributedCommunicator()
    call(Participants(comm, torch.tensor([True, True, False, True])), {"x": torch.zeros(1, 80)})
    return comm.bytes_sent


def reduce_all(comm: Participants, rows: dict[str, Tensor]) -> None:
    comm.reduce_rows(rows, median)


def measure_all(comm: Participants, rows: dict[str, Tensor]) -> None:
    comm.pairwise_distances(rows)


@pytest.mark.world
def test_what_is_sent_is_the_closed_form() -> None:
    section, others, gathered = 20 * 4, 3, 3 * 3 * 8
    four = torch.tensor([True, True, False, True])
    for call, back in ((reduce_all, others * section), (measure_all, gathered)):
        own = [others * section + back if taking_part else back for taking_part in four]
        assert on_ranks(4, sent_here, call) == own
        simulated = InProcessCommunicator(4)
        call(Participants(simulated, four), {"x": torch.zeros(4, 80)})
        assert simulated.bytes_sent == sum(own) // 4


@pytest.mark.parametrize("hosts", [None, "2x4", "8x1"])
def test_between_hosts_every_worker_sends_its_own_row(hosts: str | None) -> None:
    network = network_of(Link(100.0, 0.0), "mesh", WORKERS, hosts)
    comm = Metered(InProcessCommunicator(WORKERS), network)
    rows = {"x": torch.zeros(WORKERS, 80)}  # 320 bytes each
    everyone = torch.ones(WORKERS, dtype=torch.bool)
    comm.reduce_rows(rows, median, everyone)
    rows_and_sections = 2 * 7 / 8 * 320
    # Two hosts of four: 4 rows of a half each to the other host, and as much back.
    expected = 4 * 2 * 1 / 2 * 320 if hosts == "2x4" else rows_and_sections
    assert comm.take_seconds() == pytest.approx(expected / 100.0)
    comm.pairwise_distances(rows, everyone)
    pairs = network.gather_seconds(28 * 8)
    assert comm.take_seconds() == pytest.approx(expected / 200.0 + pairs)


def test_in_fewer_bits_rows_take_less_time() -> None:
    rows = {"x": torch.arange(400.0).view(4, 100)}
    comm = Metered(InProcessCommunicator(4), network_of(Link(1000.0, 0.5), "mesh", 4))
    start = Compression("int8", Leaves.copy_of(rows))
    comm.reduce_rows(rows, median, torch.ones(4, dtype=torch.bool), None, start)
    # Six parcels of a quarter of the numbers, a scale, and three bytes up to a whole word.
    assert comm.take_seconds() == pytest.approx(1.0 + 6 * (25 + 4 + 3) / 1000)


# Workers that come and go


def without_the_absent() -> tuple[Tensor, Tensor]:
    """Three workers of five are there, one of which is left out."""
    rank, numbers = dist.get_rank(), [0, 2, 4]
    comm = ElasticCommunicator(5, numbers[rank], timeout=timedelta(seconds=20))
    store = OwnStore("127.0.0.1")
    places: list[Any] = [None] * 3
    dist.all_gather_object(places, store.place)
    comm.connect("quorum", numbers, places[0])
    active = torch.tensor([True, False, True, False, rank < 0])
    rows = {"x": torch.full((1, 4), math.nan if rank == 2 else float(rank))}
    taking_part = Participants(comm, active)
    found = taking_part.reduce_rows(rows, mean)["x"], taking_part.pairwise_distances(rows)
    comm.abandon()
    dist.barrier()
    return found


@pytest.mark.world
def test_absent_workers_take_no_part_and_are_infinitely_far() -> None:
    expected = torch.full((5, 5), math.inf, dtype=torch.float64)
    expected[[0, 2, 0, 2], [0, 2, 2, 0]] = torch.tensor([0.0, 0.0, 2.0, 2.0]).double()
    for reduced, distances in on_ranks(3, without_the_absent):
        assert reduced.tolist() == [0.5] * 4
        torch.testing.assert_close(distances, expected, rtol=1e-6, atol=0.0)


def wrong_function() -> None:
    comm = Participants(DistributedCommunicator())
    comm.reduce_rows({"x": torch.zeros(1, 100)}, lambda rows: rows.median(dim=0))  # type: ignore[arg-type,return-value]


@pytest.mark.world
def test_a_wrong_function_is_refused_on_every_process() -> None:
    for outcome in outcomes(2, wrong_function):
        assert isinstance(outcome, grawa.UserError)
        assert "one number for each column" in str(outcome)
