"""The plan of the exchange: every element has one owner, and the bytes follow from that."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from grawa.comm.plan import plan_of, runs_of, weighty
from grawa.math.leaves import Leaves

shapes = st.lists(
    st.tuples(
        st.lists(st.integers(0, 5), max_size=3).map(tuple),
        st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    ),
    min_size=1,
    max_size=6,
)
processes = st.integers(1, 9)


def leaves_of(forms: list[tuple[tuple[int, ...], torch.dtype]]) -> Leaves:
    stack = {str(i): torch.zeros(1, *shape, dtype=d) for i, (shape, d) in enumerate(forms)}
    return Leaves.like(stack)


@given(shapes, processes)
def test_the_pieces_tile_every_leaf_exactly_once(
    forms: list[tuple[tuple[int, ...], torch.dtype]], num_processes: int
) -> None:
    leaves = leaves_of(forms)
    plan = plan_of(leaves, num_processes)
    places = list(leaves.places.values())
    owners = [[0] * leaf.numel() for leaf in leaves.values()]
    for pieces in plan.sections:
        for piece in pieces:
            offset = places[piece.leaf].offset
            for element in range(piece.start - offset, piece.stop - offset):
                owners[piece.leaf][element] += 1
    assert all(count == 1 for leaf in owners for count in leaf)


@given(shapes, processes)
def test_every_piece_lies_in_its_owners_section_at_its_leafs_place(
    forms: list[tuple[tuple[int, ...], torch.dtype]], num_processes: int
) -> None:
    leaves = leaves_of(forms)
    plan = plan_of(leaves, num_processes)
    places = list(leaves.places.values())
    for owner, pieces in enumerate(plan.sections):
        for piece in pieces:
            size = -(-leaves.flats[piece.flat].numel() // num_processes)
            assert owner * size <= piece.start < piece.stop <= (owner + 1) * size
            assert piece.flat == places[piece.leaf].flat
            assert piece.start == places[piece.leaf].offset + piece.offset


@given(shapes, processes)
def test_the_sections_runs_tile_the_flat_tensors(
    forms: list[tuple[tuple[int, ...], torch.dtype]], num_processes: int
) -> None:
    leaves = leaves_of(forms)
    seen = [torch.zeros_like(flat) for flat in leaves.flats]
    for pieces in plan_of(leaves, num_processes).sections:
        runs = runs_of(pieces)
        assert len(runs) <= len(seen)  # a section of a flat tensor is one message
        for run in runs:
            assert sum(run.sizes) == run.stop - run.start
            run.of(seen).add_(1)
    assert all(bool((flat == 1).all()) for flat in seen)


def test_runs_leave_out_what_has_no_weight() -> None:
    leaves = leaves_of([((3,), torch.float32), ((2,), torch.float32), ((4,), torch.float32)])
    (pieces,) = plan_of(leaves, 1).sections
    runs = runs_of(weighty(pieces, [1.0, 0.0, 2.0]))
    assert [(run.start, run.stop, run.sizes) for run in runs] == [(0, 3, (3,)), (5, 9, (4,))]


@given(st.integers(1, 40), processes)
def test_with_all_weights_positive_all_send_what_a_ring_would(
    size: int, num_processes: int
) -> None:
    leaves = leaves_of([((size - 1,), torch.float64), ((1,), torch.float64)])
    plan = plan_of(leaves, num_processes)
    sent = plan.bytes_sent_by_all([[1.0, 1.0]] * num_processes)
    assert sent == 2 * (num_processes - 1) * size * 8


def test_a_process_without_weight_sends_no_row() -> None:
    leaves = leaves_of([((8,), torch.float32), ((4,), torch.float32)])  # sections of 12 bytes
    masses = [[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
    # Elements 0-7 are the first leaf and 8-11 the second; process p owns 3p .. 3p+2.
    rows = 5 * 4 + 0 + (6 + 3) * 4 + 1 * 4
    assert plan_of(leaves, 4).bytes_sent_by_all(masses) == rows + 4 * 3 * 12


def test_more_processes_than_elements_leave_some_without_a_section() -> None:
    plan = plan_of(leaves_of([((5,), torch.float32)]), 4)
    assert [sum(piece.size for piece in own) for own in plan.sections] == [2, 2, 1, 0]
