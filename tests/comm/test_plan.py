"""The plan of the exchange: every element has one owner, and the bytes follow from that."""

from itertools import product

import torch
from hypothesis import given
from hypothesis import strategies as st

from grawa.comm.plan import chunks_of, plan_of, runs_of, weighty
from grawa.comm.route import route_of
from grawa.math.leaves import Leaves
from grawa.math.mean import CACHED

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
    plan = plan_of(leaves.form, num_processes)
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
    plan = plan_of(leaves.form, num_processes)
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
    for pieces in plan_of(leaves.form, num_processes).sections:
        runs = runs_of(pieces)
        assert len(runs) <= len(seen)  # a section of a flat tensor is one message
        for run in runs:
            assert sum(run.sizes) == run.stop - run.start
            run.of(seen).add_(1)
    assert all(bool((flat == 1).all()) for flat in seen)


def test_runs_leave_out_what_has_no_weight() -> None:
    leaves = leaves_of([((3,), torch.float32), ((2,), torch.float32), ((4,), torch.float32)])
    (pieces,) = plan_of(leaves.form, 1).sections
    runs = runs_of(weighty(pieces, [1.0, 0.0, 2.0]))
    assert [(run.start, run.stop, run.sizes) for run in runs] == [(0, 3, (3,)), (5, 9, (4,))]


@given(st.integers(1, 40), processes)
def test_with_all_weights_positive_all_send_what_a_ring_would(
    size: int, num_processes: int
) -> None:
    leaves = leaves_of([((size - 1,), torch.float64), ((1,), torch.float64)])
    plan = plan_of(leaves.form, num_processes)
    sent = plan.bytes_sent_by_all([[1.0, 1.0]] * num_processes)
    assert sent == 2 * (num_processes - 1) * size * 8


def test_a_process_without_weight_sends_no_row() -> None:
    leaves = leaves_of([((8,), torch.float32), ((4,), torch.float32)])  # sections of 12 bytes
    masses = [[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
    # Elements 0-7 are the first leaf and 8-11 the second; process p owns 3p .. 3p+2.
    rows = 5 * 4 + 0 + (6 + 3) * 4 + 1 * 4
    assert plan_of(leaves.form, 4).bytes_sent_by_all(masses) == rows + 4 * 3 * 12


def test_more_processes_than_elements_leave_some_without_a_section() -> None:
    plan = plan_of(leaves_of([((5,), torch.float32)]).form, 4)
    assert [sum(piece.size for piece in own) for own in plan.sections] == [2, 2, 1, 0]


weights = st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=2, max_size=5)


@given(shapes, weights, st.integers(1, 2))
def test_routes_of_all_processes_agree(
    forms: list[tuple[tuple[int, ...], torch.dtype]], masses: list[list[bool]], num_hosted: int
) -> None:
    form = leaves_of(forms).form
    weighs = tuple(tuple(own[: len(forms)]) for own in masses)
    processes = range(len(weighs))
    routes = [route_of(form, weighs, num_hosted, p) for p in processes]
    for sender, receiver in product(processes, processes):
        assert routes[sender].leaving[receiver] == routes[receiver].arriving[sender]
    for process in processes:
        assert routes[process].sections == routes[0].sections
        assert routes[process].receivers == routes[0].receivers
        assert runs_of(routes[process].sent) or not any(routes[process].leaving)
    owned = sum(piece.size for route in routes for piece in route.owned)
    assert owned == sum(size for _, _, size in form.leaves)


def test_a_route_is_made_once_for_each_pattern_of_zero_weights() -> None:
    first, again = (leaves_of([((8,), torch.float32), ((4,), torch.float32)]) for _ in range(2))
    everyone = ((True, True), (True, True))
    assert route_of(first.form, everyone, 1, 0) is route_of(again.form, everyone, 1, 0)
    assert route_of(first.form, everyone, 1, 0) is not route_of(
        first.form, ((True, True), (True, False)), 1, 0
    )


@given(shapes, st.one_of(st.none(), st.integers(1, 60)))
def test_chunks_tile_leaves_and_flat_tensors(
    forms: list[tuple[tuple[int, ...], torch.dtype]], most_bytes: int | None
) -> None:
    leaves = leaves_of(forms)
    chunks = chunks_of(leaves.form, most_bytes)
    seen = [torch.zeros_like(flat) for flat in leaves.flats]
    covered = [0] * len(leaves)
    for chunk in chunks:
        flats = chunk.of(seen)
        assert [(flat.numel(), flat.element_size()) for flat in flats] == list(chunk.form.flats)
        for part, (flat, start, size) in zip(chunk.parts, chunk.form.leaves, strict=True):
            flats[flat][start : start + size] += 1
            covered[part.leaf] += part.size
        if most_bytes is not None:
            allowed = most_bytes + sum(flat.element_size() for flat in flats)  # rounded up
            assert sum(flat.nbytes for flat in flats) <= allowed
    assert all(bool((flat == 1).all()) for flat in seen)
    assert covered == [leaf.numel() for leaf in leaves.values()]


def test_large_leaves_are_cut_so_that_their_sum_stays_in_the_cache() -> None:
    plan = plan_of(leaves_of([((2 * CACHED + 3,), torch.float32)]).form, 1)
    assert [piece.size for piece in plan.sections[0]] == [CACHED, CACHED, 3]
