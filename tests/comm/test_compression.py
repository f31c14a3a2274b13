"""Means in fewer bits: what is read is near what was meant, and the same everywhere."""

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from grawa.comm import (
    Compression,
    DistributedCommunicator,
    InProcessCommunicator,
    Participants,
)
from grawa.comm.protocol import Transport
from grawa.errors import DivergedError
from grawa.math.codec import Precision
from grawa.math.leaves import Leaves
from grawa.math.order import median
from grawa.math.top_k import TopK
from tests.world import on_ranks, outcomes

EQUAL = torch.full((4, 1), 0.25, dtype=torch.float64)
SPARSE = TopK(fraction=0.3, bits=2)
PRECISIONS: list[Precision] = ["bf16", "int8", SPARSE]
FORMS = {
    "a": ((5, 3), torch.float32),
    "b": ((7,), torch.float64),
    "c": ((1,), torch.float32),
    "none": ((0, 2), torch.float32),
}


def rows_of(step: int, workers: Sequence[int]) -> dict[str, Tensor]:
    """Rows that drift apart from a common start, step after step."""
    found = {}
    for name, (shape, dtype) in FORMS.items():
        start = torch.linspace(-1.0, 1.0, math.prod(shape), dtype=torch.float64).view(shape)
        moved = [start + 0.01 * step * torch.sin(start * 7.0 + i + step) for i in workers]
        found[name] = torch.stack(moved).to(dtype)
    return found


class Coded:
    """A transport and its compression."""

    def __init__(
        self,
        transport: Transport,
        precision: Precision,
        reference: Leaves | None = None,
        pull: float = 1.0,
    ) -> None:
        self.transport = transport
        self.compression = Compression(precision, reference, pull)

    def weighted_mean(
        self, rows: dict[str, Tensor], weights: Tensor, out: Leaves | None = None
    ) -> Leaves:
        return self.transport.weighted_mean(rows, weights, out, self.compression)


def means(
    precision: Precision, weights: list[Tensor] | None = None, hosted: int = 4
) -> tuple[list[dict[str, Tensor]], int]:
    """Three means of growing differences, and the bytes that were sent."""
    comm: Any = InProcessCommunicator(4)
    process = 0
    if dist.is_initialized():
        comm, process = DistributedCommunicator(num_hosted=hosted), dist.get_rank()
    compressed = Coded(comm, precision)
    workers = range(process * hosted, (process + 1) * hosted)
    found = []
    out: Leaves | None = None
    for step in range(4):
        weight = EQUAL if weights is None else weights[step]
        out = compressed.weighted_mean(rows_of(step, workers), weight, out)
        found.append({name: leaf.clone() for name, leaf in out.items()})
        if step == 0:
            before = comm.bytes_sent
    return found, comm.bytes_sent - before


PER_LEAF_WEIGHTS = torch.tensor(
    [[0.5, 0, 1, 1], [0.5, 0, 0, 0], [0, 0.2, 0, 0], [0, 0.8, 0, 0]], dtype=torch.float64
)
UNEVEN = [EQUAL, *(torch.tensor([[0.1], [0.0], [0.6], [0.3]], dtype=torch.float64),) * 3]
LEADER = [EQUAL, *(torch.tensor([[0.0], [0.0], [1.0], [0.0]], dtype=torch.float64),) * 3]
PER_LEAF = [
    EQUAL,
    *(PER_LEAF_WEIGHTS,) * 3,
]


def same(one: list[dict[str, Tensor]], other: list[dict[str, Tensor]]) -> bool:
    return all(
        torch.equal(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in FORMS
    )


@pytest.mark.parametrize("precision", ["bf16", "int8", TopK(fraction=1.0, bits=8)], ids=str)
@pytest.mark.parametrize("weights", [None, UNEVEN, LEADER, PER_LEAF], ids=["=", "0", "1", "leaf"])
def test_means_are_near_the_exact_ones(precision: Precision, weights: list[Tensor] | None) -> None:
    found, _ = means(precision, weights)
    exact = InProcessCommunicator(4)
    for step, mean in enumerate(found):
        expected = exact.weighted_mean(
            rows_of(step, range(4)), EQUAL if weights is None else weights[step]
        )
        # Differences are at most 0.05; int8 has 127 levels for them, twice.
        bound = 0.0 if step == 0 else 4e-4 if precision == "bf16" else 1.6e-3
        for name in FORMS:
            torch.testing.assert_close(mean[name], expected[name], rtol=0.0, atol=bound)


@pytest.mark.world
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.parametrize("weights", [None, UNEVEN, LEADER, PER_LEAF], ids=["=", "0", "1", "leaf"])
def test_the_same_bits_in_every_arrangement(
    precision: Precision, weights: list[Tensor] | None
) -> None:
    alone, said = means(precision, weights)
    for processes in (4, 2):
        found = on_ranks(processes, means, precision, weights, 4 // processes)
        assert all(same(part, alone) for part, _ in found)
        if processes == 4:
            assert sum(sent for _, sent in found) == pytest.approx(4 * said, abs=4)


def test_the_bytes_are_those_of_the_closed_form() -> None:
    # 23 numbers in flat tensors of 16 and 7: sections of 4 and 2. Pieces by section: of "a" 4, 4,
    # 4 and 3, "c" the last 1; of "b" 2, 2, 2 and 1. Parcels are whole words of 4 bytes.
    sections = [4 + 2, 4 + 2, 4 + 2, 3 + 1 + 1]
    pieces = [2, 2, 2, 3]
    for precision, each, scale in (("int8", 1, 4), ("bf16", 2, 0)):
        exact = [each * n + scale * p for n, p in zip(sections, pieces, strict=True)]
        size = [-(-n // 4) * 4 for n in exact]
        rows = sum(sum(size) - own for own in size)
        assert means(precision)[1] == 3 * (rows + 3 * sum(size)) // 4  # type: ignore[arg-type]


def test_top_k_sends_the_bytes_of_the_closed_form() -> None:
    # Sections as above, a chunk each: of 6 numbers 2 are sent, of 5 2 too, in 2 bits. A bit for
    # each number says which, as 2 indices of 3 bits take no less. Two levels are 8 bytes.
    size = -(-(8 + 1 + 1) // 4) * 4
    assert means(SPARSE)[1] == 3 * (4 * 3 * size + 3 * 4 * size) // 4


def constant(precision: Precision, rounds: int) -> tuple[Tensor, Tensor]:
    """A small number beside a large one that changes sign: the last mean, and the mean of means."""
    compressed = Coded(InProcessCommunicator(1), precision)
    weight = torch.ones(1, 1, dtype=torch.float64)
    seen = []
    for step in range(rounds):
        value = torch.tensor([[100.0 * (-1) ** step, 0.1]]) if step else torch.zeros(1, 2)
        mean = compressed.weighted_mean({"x": value}, weight)["x"].clone()
        seen.append(mean)
    return seen[-1], torch.stack(seen[1:]).mean(dim=0)


def test_what_rounding_loses_arrives_in_the_end() -> None:
    _, few = constant("int8", 9)
    _, many = constant("int8", 401)
    # A level is 200/127: on its own 0.1 would be rounded to nothing, round after round.
    assert abs(float(many[1]) - 0.1) < 0.02
    assert abs(float(many[1]) - 0.1) < abs(float(few[1]) - 0.1)


def told(rounds: int, pull: float) -> tuple[float, float]:
    """What a hundred small numbers have added up to, and what arrived, by one number a round.

    A worker moves by as much in each round, and then to the mean by `pull`.
    """
    coded = Coded(InProcessCommunicator(1), TopK(fraction=1e-3), pull=pull)
    weight, steps = torch.ones(1, 1, dtype=torch.float64), torch.linspace(0.5, 1.5, 100)
    row = torch.zeros(1, 100)
    coded.weighted_mean({"x": row}, weight)
    for _ in range(rounds):
        row += steps
        mean = coded.weighted_mean({"x": row}, weight)["x"]
        row += pull * (mean - row)
    return rounds * 100.0, float(mean.sum())


@pytest.mark.parametrize("pull", [1.0, 0.5, 0.1])
def test_what_is_not_sent_is_sent_later_and_only_once(pull: float) -> None:
    for rounds in (400, 800):
        meant, arrived = told(rounds, pull)
        # Each of the hundred numbers is sent every hundred rounds, so that of 50 is missing.
        assert meant - arrived == pytest.approx(50 * 100.0, rel=0.01)


def test_functions_of_rows_get_whole_rows() -> None:
    comm = Participants(InProcessCommunicator(3), compression=Compression(SPARSE))
    rows = {"x": torch.randn(3, 40, generator=torch.Generator().manual_seed(0))}
    for _ in range(2):
        assert torch.equal(comm.reduce_rows(rows, median)["x"], rows["x"].median(dim=0).values)


def test_int8_by_hand() -> None:
    compressed = Coded(InProcessCommunicator(2), "int8")
    half = torch.full((2, 1), 0.5, dtype=torch.float64)
    compressed.weighted_mean({"x": torch.zeros(2, 2)}, half)
    mean = compressed.weighted_mean({"x": torch.tensor([[1.0, 0.0], [0.5, 1.27]])}, half)
    # Each piece is one number here, so its scale makes it exact to rounding.
    torch.testing.assert_close(mean["x"], torch.tensor([0.75, 0.635]), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("size", [2**16 - 1, 2**16, 2**16 + 1, 300_001])
def test_large_leaves_are_cut_and_each_part_has_a_scale(size: int) -> None:
    compressed = Coded(InProcessCommunicator(2), "int8")
    half = torch.full((2, 1), 0.5, dtype=torch.float64)
    compressed.weighted_mean({"x": torch.zeros(2, size), "y": torch.zeros(2, 3)}, half)
    small = 1e-3 * torch.sin(torch.arange(2.0 * size).view(2, size))
    rows = {"x": small, "y": torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 5.0]])}
    rows["x"][:, -1] = 1000.0  # coarsens the numbers of its own part only
    mean = compressed.weighted_mean(rows, half)
    fine = size // 4
    torch.testing.assert_close(
        mean["x"][:fine], small.mean(dim=0)[:fine], rtol=0.0, atol=2.1 * 1e-3 / 127
    )
    torch.testing.assert_close(mean["y"], torch.tensor([2.0, 2.0, 4.0]), rtol=0.0, atol=0.1)


def test_a_row_without_weight_may_hold_anything() -> None:
    compressed = Coded(InProcessCommunicator(4), "int8")
    compressed.weighted_mean(rows_of(0, range(4)), EQUAL)
    rows = rows_of(1, range(4))
    for value in rows.values():
        value[1] = math.nan
    mean = compressed.weighted_mean(rows, UNEVEN[1])
    assert all(bool(torch.isfinite(leaf).all()) for leaf in mean.values())


def average_broken(precision: Precision, value: float) -> None:
    compressed = Coded(DistributedCommunicator(), precision)
    rank = dist.get_rank()
    compressed.weighted_mean(rows_of(0, [rank]), EQUAL[:2])
    rows = rows_of(1, [rank])
    if rank == 1:
        rows["a"][0, 2, 1] = value
    compressed.weighted_mean(rows, EQUAL[:2])


@pytest.mark.world
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_noticed_everywhere(precision: Precision, value: float) -> None:
    for outcome in outcomes(2, average_broken, precision, value):
        assert isinstance(outcome, DivergedError)


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.parametrize("started", [True, False])
def test_it_goes_on_from_a_saved_state(precision: Precision, started: bool) -> None:
    first, second = (Coded(InProcessCommunicator(4), precision) for _ in range(2))
    for step in range(3):
        first.weighted_mean(rows_of(step, range(4)), EQUAL)
    if started:
        second.weighted_mean(rows_of(0, range(4)), EQUAL)
    saved = first.compression.state_dict()
    kept = deepcopy(saved)
    one = first.weighted_mean(rows_of(3, range(4)), EQUAL)
    assert str(saved) == str(kept)  # a copy of what there was
    second.compression.load_state_dict(saved)
    two = second.weighted_mean(rows_of(3, range(4)), EQUAL)
    assert all(torch.equal(one[name], two[name]) for name in FORMS)


def test_a_state_that_nobody_has_used_yet_can_be_saved_again() -> None:
    first = Coded(InProcessCommunicator(4), "int8")
    for step in range(3):
        first.weighted_mean(rows_of(step, range(4)), EQUAL)
    second = Compression("int8")
    second.load_state_dict(first.compression.state_dict())
    third = Coded(InProcessCommunicator(4), "int8")
    third.compression.load_state_dict(second.state_dict())
    one, three = (c.weighted_mean(rows_of(3, range(4)), EQUAL) for c in (first, third))
    assert all(torch.equal(one[name], three[name]) for name in FORMS)


def saved_by_two() -> dict[str, Any]:
    coded = Coded(DistributedCommunicator(), "int8")
    rank = dist.get_rank()
    for step in range(3):
        coded.weighted_mean(rows_of(step, [rank]), EQUAL[:2])
    return coded.compression.state_dict()


def loaded(state: dict[str, Any]) -> dict[str, Tensor]:
    size = dist.get_world_size()
    coded = Coded(DistributedCommunicator(), "int8")
    coded.compression.load_state_dict(state)
    mean = coded.weighted_mean(rows_of(3, [dist.get_rank()]), EQUAL[:size])
    return dict(mean)


@pytest.mark.world
@pytest.mark.parametrize("processes", [1, 3])
def test_another_number_of_processes_can_go_on_from_the_reference(processes: int) -> None:
    state = on_ranks(2, saved_by_two)[0]
    exact = InProcessCommunicator(processes).weighted_mean(
        rows_of(3, range(processes)), EQUAL[:processes]
    )
    found = on_ranks(processes, loaded, state)
    for mean in found:
        for name in FORMS:
            assert torch.equal(mean[name], found[0][name])
            torch.testing.assert_close(mean[name], exact[name], rtol=0.0, atol=2e-3)


def test_a_given_reference_makes_the_first_mean_travel_in_fewer_bits() -> None:
    comm = InProcessCommunicator(4)
    start = rows_of(0, [0])
    coded = Coded(comm, "int8", Leaves.copy_of(start))
    mean = coded.weighted_mean(rows_of(1, range(4)), EQUAL)
    assert comm.bytes_sent < 1.5 * (16 * 4 + 7 * 8)  # what the mean would cost as it is
    exact = InProcessCommunicator(4).weighted_mean(rows_of(1, range(4)), EQUAL)
    for name in FORMS:
        torch.testing.assert_close(mean[name], exact[name], rtol=0.0, atol=1.6e-3)
    assert all(torch.equal(start[name], rows_of(0, [0])[name]) for name in FORMS)


def test_16_bit_parameters_keep_a_reference_in_float32() -> None:
    coded = Coded(InProcessCommunicator(2), "bf16")
    half = torch.full((2, 1), 0.5, dtype=torch.float64)
    coded.weighted_mean({"x": torch.ones(2, 4, dtype=torch.bfloat16)}, half)
    for _ in range(3):  # from 1 to 1.00391, half an ulp up, which must not be lost on the way
        rows = {"x": torch.tensor([[1.0] * 4, [1.0078125] * 4], dtype=torch.bfloat16)}
        mean = coded.weighted_mean(rows, half)
        assert mean["x"].dtype == torch.bfloat16
        assert coded.compression.reference is not None
        assert coded.compression.reference["x"].tolist() == [1.00390625] * 4


def test_other_leaves_travel_as_they_are() -> None:
    compressed = Coded(InProcessCommunicator(4), "int8")
    compressed.weighted_mean(rows_of(0, range(4)), EQUAL)
    other = {"y": torch.tensor([[1.0], [2.0], [4.0], [9.1]])}
    exact = InProcessCommunicator(4).weighted_mean(other, EQUAL)
    assert torch.equal(compressed.weighted_mean(other, EQUAL)["y"], exact["y"])


def test_teams_have_references_of_their_own() -> None:
    comm = Participants(InProcessCommunicator(4), compression=Compression("bf16"))
    half = EQUAL[:2] * 2
    for step in range(3):
        for team in comm.split(2):
            members = rows_of(step, range(team.workers.start, team.workers.stop))
            mean = team.comm.weighted_mean(members, half)
            exact = InProcessCommunicator(2).weighted_mean(members, half)
            for name in FORMS:
                torch.testing.assert_close(mean[name], exact[name], rtol=0.0, atol=4e-4)


def team_means(first: int, last: int, state: dict[str, Any] | None) -> tuple[Any, dict[str, Any]]:
    """The means of both teams at some steps, and the state after them."""
    compression = Compression("int8")
    if state is not None:
        compression.load_state_dict(state)
    comm = Participants(InProcessCommunicator(4), compression=compression)
    found = []
    for step in range(first, last):
        for team in comm.split(2):
            members = rows_of(step, range(team.workers.start, team.workers.stop))
            mean = team.comm.weighted_mean(members, EQUAL[:2] * 2)
            found.append({name: leaf.clone() for name, leaf in mean.items()})
    return found, compression.state_dict()


def test_teams_go_on_from_a_saved_state_bit_for_bit() -> None:
    through, _ = team_means(0, 6, None)
    before, state = team_means(0, 3, None)
    after, _ = team_means(3, 6, deepcopy(state))
    assert same(before + after, through)
