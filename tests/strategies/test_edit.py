"""EDiT leaves out displacements that are unusual for their worker, and rolls back where all are."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.optim import Adafactor

import grawa
from grawa.math.moving import Moving
from grawa.strategies.protocol import first_state
from tests.helpers import everyone

WORKERS, USUAL = 3, [1.0, 1.1, 0.9, 1.0, 1.1, 0.9]
"""Lengths of displacements, of all workers, in the first rounds."""


class Rounds:
    """Rounds of EDiT in which each worker has moved along an axis of its own, in two tensors."""

    def __init__(self, **options: float) -> None:
        self.strategy = grawa.EDiT(
            warmup_rounds=len(USUAL),
            outer=grawa.OuterNesterov(lr=0.5, momentum=0.5),
            group_by=grawa.by_tensor,
            temperature=1e9,
            **options,
        )
        self.params = {n: torch.zeros(WORKERS, WORKERS, dtype=torch.float64) for n in "ab"}
        self.state = first_state(self.strategy, self.params, WORKERS)

    def run(self, a: list[float], b: list[float]) -> Tensor:
        """One round after displacements of these lengths; the weights, (N, 2)."""
        for name, lengths in (("a", a), ("b", b)):
            self.params[name] += torch.diag(torch.tensor(lengths, dtype=torch.float64))
        norms = torch.tensor([a, b], dtype=torch.float64).T
        weights = self.strategy.sync(self.params, norms, self.state, everyone(WORKERS), 0)
        assert weights is not None
        return weights

    def warm_up(self) -> None:
        for length in USUAL:
            self.run([length] * WORKERS, [2.0 * length] * WORKERS)


def test_a_displacement_far_above_its_workers_usual_one_is_left_out_of_its_group() -> None:
    rounds = Rounds()
    rounds.warm_up()
    # Worker 1 moves tensor b by 3 in place of about 2, with a deviation of 0.16.
    weights = rounds.run([1.0, 1.0, 1.0], [2.0, 3.0, 2.0])
    torch.testing.assert_close(weights[:, 0], torch.full((WORKERS,), 1 / 3).double())
    torch.testing.assert_close(weights[:, 1], torch.tensor([0.5, 0.0, 0.5]).double())


def test_during_the_warm_up_nobody_is_left_out() -> None:
    rounds = Rounds()
    for length in USUAL[:-1]:
        rounds.run([length] * WORKERS, [length] * WORKERS)
    weights = rounds.run([1.0, 90.0, 1.0], [1.0, 1.0, 1.0])
    assert bool((weights > 0.3).all())


def test_small_displacements_are_never_outliers() -> None:
    rounds = Rounds()
    rounds.warm_up()
    assert bool((rounds.run([0.01, 1.0, 1.0], [2.0] * WORKERS) > 0.3).all())


def test_where_all_are_outliers_all_restart_from_the_last_center() -> None:
    rounds = Rounds()
    rounds.warm_up()
    before = {key: rounds.state[key].clone() for key in ("center", "momentum")}
    rounds.run([1.0] * WORKERS, [50.0] * WORKERS)
    for key in ("center", "momentum"):
        assert torch.equal(rounds.state[key]["b"], before[key]["b"])
        assert not torch.equal(rounds.state[key]["a"], before[key]["a"])
    assert torch.equal(rounds.params["b"], before["center"]["b"].expand(WORKERS, -1))


def test_an_outer_optimizer_with_other_state_for_each_tensor_is_rolled_back_too() -> None:
    strategy = grawa.EDiT(outer=partial(Adafactor, lr=0.1), warmup_rounds=2)
    shapes = {"vector": (WORKERS, 3), "matrix": (WORKERS, 2, 2)}
    params = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}
    state = first_state(strategy, params, WORKERS)
    for number, length in enumerate([*USUAL, 50.0]):
        before = {key: leaves.clone() for key, leaves in state.items()}
        for rows in params.values():
            rows += length
        norms = torch.full((WORKERS, len(set(strategy.groups(list(params))))), length).double()
        strategy.sync(params, norms, state, everyone(WORKERS), number)
    for key in ("center", "outer.variance", "outer.row_var"):
        for name, leaf in state[key].items():
            assert torch.equal(leaf, before[key][name])


def test_a_lasting_change_is_accepted_after_some_rounds() -> None:
    rounds = Rounds()
    rounds.warm_up()
    left_out = [
        not bool((rounds.run([1.0, 5.0, 1.0], [2.0] * WORKERS)[:, 0] > 0.0).all()) for _ in range(8)
    ]
    assert left_out[0]
    assert not left_out[-1]


def test_a_tensor_that_a_worker_has_not_moved_gives_it_no_weight() -> None:
    weights = Rounds().run([1.0, 0.0, 1.0], [0.0, 0.0, 0.0])
    assert weights[:, 0].tolist() == pytest.approx([0.5, 0.0, 0.5])
    assert weights[:, 1].tolist() == pytest.approx([1 / 3] * 3)


def test_moving_means_are_weighted_sums_over_all_rounds() -> None:
    values = torch.randn(9, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    values[:, 1, 1] = torch.nan
    taking = torch.tensor([[True], [False]])
    moving = Moving(*(torch.zeros(2, c, dtype=torch.float64) for c in (3, 3, 1)))
    for value in values:
        moving.add(value, taking, 0.1)
    weights = 0.9 ** torch.arange(8, -1, -1, dtype=torch.float64)
    weights = (weights / weights.sum()).unsqueeze(1)
    mean = (weights * values[:, 0]).sum(dim=0)
    torch.testing.assert_close(moving.mean[0], mean)
    spread = (weights * (values[:, 0] - mean).square()).sum(dim=0)
    torch.testing.assert_close(moving.variance[0], spread)
    assert not bool(moving.mean[1].any()) and moving.rounds.flatten().tolist() == [9.0, 0.0]
    torch.testing.assert_close(
        moving.z_scores(mean + 2.0 * spread.sqrt())[0], torch.full((3,), 2.0).double()
    )
