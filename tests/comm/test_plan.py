"""The plan of the exchange: every element has one owner, and the bytes follow from that."""

from itertools import product

import torch
from hypothesis import given
from hypothesis import strategies as st

from grawa.comm.plan import plan_of, runs_of, weighty
from grawa.comm.route import routes_of
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


most_bytes = st.one_of(st.none(), st.integers(1, 60))


@given(shapes, weights, st.integers(1, 2), most_bytes)
def test_routes_of_all_processes_agree_and_cover_every_leaf(
    forms: list[tuple[tuple[int, ...], torch.dtype]],
    masses: list[list[bool]],
    num_hosted: int,
    most_bytes: int | None,
) -> None:
    leaves = leaves_of(forms)
    weighs = tuple(tuple(own[: len(forms)]) for own in masses)
    processes = range(len(weighs))
    owners = tuple(processes)[: max(1, len(masses) - 1)]
    routes = [routes_of(leaves.form, weighs, owners, num_hosted, p, most_bytes) for p in processes]
    covered = [0] * len(forms)
    seen = [torch.zeros_like(flat) for flat in leaves.flats]
    for chunk in zip(*routes, strict=True):
        for sender, receiver in product(processes, processes):
            assert chunk[sender].leaving[receiver] == chunk[receiver].arriving[sender]
        for process in processes:
            assert chunk[process].sections == chunk[0].sections
            assert chunk[process].bounds == chunk[0].bounds
            assert all(weighs[process][piece.leaf] for piece in chunk[process].sent)
            assert not chunk[process].owned or process in owners
            for piece in chunk[process].owned:
                covered[piece.leaf] += piece.size
                piece.of(chunk[process].of(seen)).add_(1)
    assert all(bool((flat == 1).all()) for flat in seen)
    assert covered == [leaf.numel() for leaf in leaves.values()]


def test_chunks_have_so_many_bytes_at_most() -> None:
    form = leaves_of([((2 * CACHED,), torch.float32), ((5, 7), torch.float64)] * 3).form
    most = 2**20
    routes = routes_of(form, ((True,) * 6,) * 2, (0, 1), 1, 0, most)
    chunks = [sum((r.stop - r.start) * form.flats[r.flat][1] for r in x.bounds) for x in routes]
    assert len(chunks) > 2
    assert max(chunks) <= most


def test_a_route_is_made_once_for_each_pattern_of_zero_weights() -> None:
    first, again = (leaves_of([((8,), torch.float32), ((4,), torch.float32)]) for _ in range(2))
    everyone = ((True, True), (True, True))
    route = routes_of(first.form, everyone, (0, 1), 1, 0, None)
    assert routes_of(again.form, everyone, (0, 1), 1, 0, None) is route
    some = ((True, True), (True, False))
    assert routes_of(first.form, some, (0, 1), 1, 0, None) is not route


def test_large_leaves_are_cut_so_that_their_sum_stays_in_the_cache() -> None:
    plan = plan_of(leaves_of([((2 * CACHED + 3,), torch.float32)]).form, 1)
    assert [piece.size for piece in plan.sections[0]] == [CACHED, CACHED, 3]
