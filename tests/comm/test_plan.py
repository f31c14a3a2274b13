"""The plan of the exchange: every element has one owner, and the bytes follow from that."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from grawa.comm.plan import plan_of, section
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


def leaves_of(forms: list[tuple[tuple[int, ...], torch.dtype]], multiple: int) -> Leaves:
    stack = {str(i): torch.zeros(1, *shape, dtype=d) for i, (shape, d) in enumerate(forms)}
    return Leaves.like(stack, multiple)


@given(shapes, processes)
def test_the_pieces_tile_every_leaf_exactly_once(
    forms: list[tuple[tuple[int, ...], torch.dtype]], num_processes: int
) -> None:
    leaves = leaves_of(forms, num_processes)
    plan = plan_of(leaves, num_processes)
    places = list(leaves.places.values())
    owners = [[0] * leaf.numel() for leaf in leaves.values()]
    for pieces in plan.pieces:
        for piece in pieces:
            offset = places[piece.leaf].offset
            for element in range(piece.start - offset, piece.stop - offset):
                owners[piece.leaf][element] += 1
    assert all(count == 1 for leaf in owners for count in leaf)


@given(shapes, processes)
def test_every_piece_lies_in_its_owners_section_at_its_leafs_place(
    forms: list[tuple[tuple[int, ...], torch.dtype]], num_processes: int
) -> None:
    leaves = leaves_of(forms, num_processes)
    plan = plan_of(leaves, num_processes)
    places = list(leaves.places.values())
    for owner, pieces in enumerate(plan.pieces):
        for piece in pieces:
            flat = leaves.flats[piece.flat]
            size = flat.numel() // num_processes
            assert owner * size <= piece.start < piece.stop <= (owner + 1) * size
            assert piece.flat == places[piece.leaf].flat
            assert piece.num_bytes == piece.size * flat.element_size()


@given(shapes, processes)
def test_the_sections_tile_the_flat_tensors(
    forms: list[tuple[tuple[int, ...], torch.dtype]], num_processes: int
) -> None:
    leaves = leaves_of(forms, num_processes)
    for flat in leaves.flats:
        flat.copy_(torch.arange(flat.numel()))
        sections = [section(flat, process, num_processes) for process in range(num_processes)]
        assert torch.equal(torch.cat(sections), flat)
        assert all(part.numel() * num_processes == flat.numel() for part in sections)


@given(st.integers(1, 40), processes)
def test_with_all_weights_positive_a_process_sends_what_a_ring_would(
    size: int, num_processes: int
) -> None:
    padded = size * num_processes
    leaves = leaves_of([((padded - 1,), torch.float64), ((1,), torch.float64)], num_processes)
    plan = plan_of(leaves, num_processes)
    masses = [[1.0, 1.0]] * num_processes
    for process in range(num_processes):
        sent = plan.bytes_sent(process, masses)
        assert sent * num_processes == 2 * (num_processes - 1) * padded * 8


@given(shapes, processes)
def test_padding_is_sent_in_the_second_phase_only(
    forms: list[tuple[tuple[int, ...], torch.dtype]], num_processes: int
) -> None:
    leaves = leaves_of(forms, num_processes)
    plan = plan_of(leaves, num_processes)
    masses = [[1.0] * len(leaves)] * num_processes
    total = sum(plan.bytes_sent(process, masses) for process in range(num_processes))
    real = sum(leaf.nbytes for leaf in leaves.values())
    padded = sum(flat.nbytes for flat in leaves.flats)
    assert total == (num_processes - 1) * (real + padded)


def test_a_process_without_weight_sends_no_row() -> None:
    leaves = leaves_of([((8,), torch.float32), ((4,), torch.float32)], 4)  # sections of 12 bytes
    plan = plan_of(leaves, 4)
    masses = [[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
    # Elements 0-7 are the first leaf and 8-11 the second; process p owns 3p .. 3p+2.
    rows = [5 * 4, 0, (6 + 3) * 4, 1 * 4]
    assert [plan.bytes_sent(p, masses) - 3 * 12 for p in range(4)] == rows
    assert plan.bytes_sent_by_all(masses) == sum(rows) + 4 * 3 * 12


def test_leaves_that_do_not_divide_are_planned_as_if_they_were_padded() -> None:
    padded = plan_of(leaves_of([((7,), torch.float32)], 4), 4)
    assert plan_of(leaves_of([((7,), torch.float32)], 1), 4) == padded
