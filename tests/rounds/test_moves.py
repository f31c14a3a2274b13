"""Moves of the center, and displacements of the workers, in reports."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

import grawa
from examples.median import Median
from grawa.math.leaves import Leaves
from grawa.math.norms import row_norms
from grawa.rounds.moves import Moves, chosen
from tests.helpers import Fleet, averaged, batches, flat_state, poison, shown

WORKERS = 3
DATA = batches(steps=12, workers=WORKERS)


def watched(
    strategy: grawa.Strategy, data: Any = DATA, **options: Any
) -> tuple[list[grawa.RoundReport], list[Tensor], list[Tensor]]:
    """Reports, and the workers before each round, (N, P), and the consensus after it, (P,)."""
    reports: list[grawa.RoundReport] = []
    before: list[Tensor] = []
    fleet = Fleet(WORKERS)
    averager = grawa.Averager(
        fleet.models,
        fleet.optimizers,
        strategy,
        **{"sync_every": 3, "guard": None} | options,
        measure_distance=True,
        on_round=reports.append,
    )
    averager._engine.keeper.runner.fragments[0].watchers.append(
        lambda params, _: before.append(
            torch.cat([rows.flatten(1) for rows in params.values()], dim=1)
        )
    )
    averager.attach()
    centers = [flat_state(fleet.models[0], averager.consensus())]
    for start in range(0, len(data.inputs), 3):
        fleet.train(data.steps(start, start + 3), averager)
        centers.append(flat_state(fleet.models[0], averager.consensus()))
    return reports, before, centers


@pytest.mark.parametrize("strategy", [grawa.LocalSGD(), grawa.MGRAWA(), grawa.DiLoCo()], ids=shown)
def test_reports_tell_how_the_center_moves_and_how_far_workers_were_from_it(
    strategy: grawa.Strategy,
) -> None:
    reports, before, centers = watched(strategy)
    moves = [b - a for a, b in pairwise(centers)]
    turns = [cosine_similarity(a, b, dim=0) for a, b in pairwise(moves)]
    assert reports[0].center_cosine is None
    cosines = [report.center_cosine for report in reports[1:]]
    assert cosines == pytest.approx([float(turn) for turn in turns], abs=1e-12)
    lengths = [(x - c).norm(dim=1) for x, c in zip(before, centers, strict=False)]
    spreads = [float(each.std(correction=0) / each.mean()) for each in lengths]
    assert [r.displacement_spread for r in reports] == pytest.approx(spreads, rel=1e-12)


@pytest.mark.parametrize("strategy", [Median(), grawa.DataParallel()], ids=shown)
def test_without_a_center_there_are_no_moves(strategy: grawa.Strategy) -> None:
    for report in watched(strategy)[0]:
        assert (report.center_cosine, report.displacement_spread) == (None, None)


def test_nothing_is_measured_unless_asked() -> None:
    reports: list[grawa.RoundReport] = []
    averaged(grawa.LocalSGD(), DATA, on_round=[reports.append])
    for report in reports:
        assert (report.center_cosine, report.displacement_spread) == (None, None)


@pytest.mark.filterwarnings("ignore:all . workers have exactly equal")
def test_equal_workers_have_no_spread_and_a_center_at_rest_no_direction() -> None:
    for report in watched(grawa.LocalSGD(), DATA.workers([0] * WORKERS))[0]:
        assert report.displacement_spread == pytest.approx(0.0, abs=1e-15)
    reports: list[grawa.RoundReport] = []
    fleet = Fleet(2)
    averager = grawa.Averager(
        fleet.models, fleet.optimizers, grawa.LocalSGD(), measure_distance=True,
        on_round=reports.append,
    )  # fmt: skip
    averager.synchronize()
    averager.synchronize()
    for report in reports:
        assert (report.center_cosine, report.displacement_spread) == (None, None)


def test_a_worker_that_is_left_out_does_not_count() -> None:
    reports: list[grawa.RoundReport] = []
    fleets = Fleet(3), Fleet(2)
    for fleet, workers in zip(fleets, ([0, 1, 2], [0, 2]), strict=True):
        averager = grawa.Averager(
            fleet.models, fleet.optimizers, grawa.LocalSGD(), sync_every=3, measure_distance=True,
            on_round=reports.append,
        )  # fmt: skip
        averager.attach()
        if len(workers) == 3:
            poison(fleet.models[1])
        fleet.train(DATA.workers(workers).steps(0, 3), averager)
    with_it, without = reports
    assert with_it.left_out
    assert with_it.displacement_spread == pytest.approx(without.displacement_spread, rel=1e-12)


def test_each_fragment_has_its_own_moves() -> None:
    reports, _, _ = watched(grawa.LocalSGD(), fragments=2, sync_every=4)
    assert [report.fragment for report in reports] == [0, 1] * 3
    assert [report.center_cosine is None for report in reports] == [True] * 2 + [False] * 4


def test_after_other_state_is_loaded_the_last_move_is_not_known() -> None:
    fleet, reports = Fleet(2), list[grawa.RoundReport]()
    averager = grawa.Averager(
        fleet.models, fleet.optimizers, grawa.LocalSGD(), sync_every=2, measure_distance=True,
        on_round=reports.append,
    )  # fmt: skip
    averager.attach()
    data = DATA.workers([0, 1])
    fleet.train(data.steps(0, 4), averager)
    averager.load_state_dict(averager.state_dict())
    fleet.train(data.steps(4, 8), averager)
    known = [report.center_cosine is not None for report in reports]
    assert known == [False, True, False, True]


def test_of_many_parameters_some_are_chosen_from_every_part() -> None:
    places = chosen([7000, 0, 3000], most=100)
    assert [len(each) for each in places] == [70, 0, 30]
    for each, size in zip(places, (7000, 0, 3000), strict=True):
        parts = each // 100  # one in each hundred
        assert torch.equal(parts, torch.arange(size // 100))
    again = chosen([7000, 0, 3000], most=100)
    assert all(torch.equal(a, b) for a, b in zip(places, again, strict=True))
    few = chosen([3, 0, 2], most=5)
    assert [each.tolist() for each in few] == [[0, 1, 2], [], [0, 1]]
    assert sum(map(len, chosen([5, 2, 4], most=10))) == 10


def test_a_sample_tells_nearly_what_all_parameters_do() -> None:
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    found = {}
    start, first, second = draw(200, 100), draw(200, 100), draw(200, 100)
    workers = start + torch.tensor([1.0, 1.5, 2.5]).view(3, 1, 1) * draw(3, 200, 100)
    for most in (20_000, 4_000):
        center = Leaves.copy_of({"x": start.unsqueeze(0)})
        moves = Moves(center, row_norms, most)
        rows = []
        for move in (first, first + second):
            moves.begin({"x": workers}, {"center": center})
            center["x"].add_(move)
            rows.append(moves.end({"center": center}))
            moves.commit()
        found[most] = rows
    assert bool(found[4_000][0][:, 1].isnan().all())
    exact, sampled = (each[1][0, 1] for each in found.values())
    assert float(exact) == pytest.approx(2**-0.5, abs=0.02)
    assert float(sampled) == pytest.approx(float(exact), abs=0.03)
    exact, sampled = (each[0][:, 0] for each in found.values())
    torch.testing.assert_close(sampled / sampled.mean(), exact / exact.mean(), rtol=0.05, atol=0.0)
