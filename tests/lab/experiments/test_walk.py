"""Walks are the runs that training makes, written down."""

import math

import pytest
import torch

from grawa.lab.cli.grids import grid
from grawa.lab.cli.methods import method
from grawa.lab.cli.trials import prepare
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.options import changed
from grawa.lab.experiments.walk import Walk, walk
from grawa.lab.experiments.wells import end_of
from grawa.lab.tasks.wells import FLAT, SHARP, landscape, nearest_well
from grawa.lab.train.events import Finished, Trained
from grawa.lab.train.loop import train


def config_of(name: str, **options: object) -> TrainConfig:
    base = TrainConfig(task="wells:noise=4", workers=3, steps=10, sync_every=4, guard=False)
    return changed(base, *grid(method(name), 0.03, 1), options)


def walk_of(config: TrainConfig) -> Walk:
    prepared = prepare(config)
    return walk(prepared.task, prepared.strategy_for, config.settings())


@pytest.mark.parametrize("name", ["mgrawa", "lsgd", "diloco", "dp_sgd"])
def test_a_walk_ends_where_training_ends(name: str) -> None:
    config = config_of(name)
    taken, prepared = walk_of(config), prepare(config)
    run = train(prepared.task, prepared.strategy_for, config.settings(), keep_workers=True)
    *_, trained, finished = run
    assert isinstance(trained, Trained)
    assert isinstance(finished, Finished)
    assert taken.error == finished.error
    assert torch.equal(taken.end, finished.consensus["position"].double())
    ends = torch.stack([trained.workers[i]["position"] for i in range(3)])
    assert torch.equal(taken.workers[-1], ends.double())


def test_all_steps_and_rounds_are_there_and_workers_start_at_one_place() -> None:
    taken = walk_of(config_of("uniform"))
    assert taken.workers.shape == (11, 3, 2)
    assert taken.rounds == (0, 4, 8, 10)  # the last one takes in the last two steps
    start = taken.consensus[0]
    assert torch.equal(taken.workers[0], start.expand(3, 2))
    assert float(start.norm()) == pytest.approx(4.5)
    spread = taken.workers.std(dim=1).norm(dim=1)
    assert bool((spread[1:] > 0.0).all())


def test_after_a_round_of_averaging_all_are_at_the_consensus() -> None:
    taken = walk_of(config_of("local_sgd"))
    for place, step in zip(taken.consensus, taken.rounds, strict=True):
        torch.testing.assert_close(taken.workers[step], place.expand(3, 2))


def test_a_run_that_diverges_is_kept_as_far_as_it_came() -> None:
    config = config_of("local_sgd", guard=True, fault=("nan:0@6", "nan:1@6", "nan:2@6"))
    taken = walk_of(config)
    assert "finite" in taken.failure
    assert math.isnan(taken.error)
    assert taken.rounds == (0, 4)
    assert torch.equal(taken.end, taken.consensus[1])
    assert end_of(taken).kind == "none"


def walk_to(x: float, y: float) -> Walk:
    end = torch.tensor([x, y], dtype=torch.float64)
    return Walk(
        workers=end.expand(1, 1, 2), consensus=end[None], rounds=(0,), end=end,
        error=float(landscape(end)), failure="",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        *((place, "flat") for place in FLAT),
        *((place, "sharp") for place in SHARP),
        ((2.5, 0.85), "flat"),
        ((2.5, 0.95), "none"),
        ((0.0, 0.29), "sharp"),
        ((0.0, 0.31), "none"),
        ((4.5, 0.0), "none"),
    ],
)
def test_a_place_is_in_a_well_within_its_width(place: tuple[float, float], kind: str) -> None:
    assert end_of(walk_to(*place)).kind == kind


def test_the_end_says_how_far_and_how_sharp() -> None:
    end = end_of(walk_to(0.0, 0.1))
    assert end.nearest.place == (0.0, 0.0)
    assert end.distance == pytest.approx(0.1)
    # One well alone, across: depth / width^2 exp(-r^2 / 2 width^2), and the bowl.
    alone = 0.8 / 0.09 * math.exp(-0.5 / 9.0) + 0.02
    # The three flat wells, 2.5 away on all sides.
    square = 2.5**2 / 0.9**2
    others = 3.0 * 0.8 / 0.81 * (square / 2.0 - 1.0) * math.exp(-square / 2.0)
    assert end.eigenvalue == pytest.approx(alone - others, rel=0.003)


def test_the_nearest_well_is_by_distance() -> None:
    well, distance = nearest_well(torch.tensor([-2.5, 0.5]))
    assert (well.kind, well.place) == ("sharp", (-2.5, 0.0))
    assert distance == pytest.approx(0.5)
