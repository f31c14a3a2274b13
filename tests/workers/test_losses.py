"""Means of recent losses: of a round's own steps, filled up with earlier ones."""

import torch

from grawa.workers.losses import FEWEST, RecentLosses

ALL = slice(None)


def read(losses: RecentLosses) -> torch.Tensor:
    return losses.means(losses.sums())


def noted(*cycles: list[float]) -> RecentLosses:
    """Losses of one worker, with a round behind each cycle but the last."""
    losses = RecentLosses(torch.zeros(1, dtype=torch.float64))
    for i, cycle in enumerate(cycles):
        if i > 0:
            losses.restart(read(losses))
        for loss in cycle:
            losses.note(torch.tensor([loss]), ALL)
    return losses


def test_long_cycles_count_only_their_own_losses() -> None:
    mean = read(noted([9.0] * FEWEST, [1.0] * FEWEST))
    assert mean.tolist() == [1.0]


def test_short_cycles_are_filled_up_with_the_mean_of_before() -> None:
    mean = read(noted([2.0] * 40, [4.0] * 8))
    assert mean.tolist() == [(8 * 4.0 + 24 * 2.0) / 32]


def test_few_losses_in_all_count_alike() -> None:
    assert read(noted([1.0], [2.0], [6.0])).tolist() == [3.0]


def test_one_loss_after_a_round_moves_the_mean_by_its_share() -> None:
    assert read(noted([1.0] * 64, [33.0])).tolist() == [2.0]


def test_a_loss_that_is_not_finite_counts_until_the_round_and_then_no_more() -> None:
    for bad in (float("nan"), float("inf")):
        losses = noted([1.0, bad])
        assert read(losses).tolist() == [float("inf")]
        losses.restart(read(losses))
        assert read(losses).isnan().all()
        losses.note(torch.tensor([2.0]), ALL)
        assert read(losses).tolist() == [2.0]


def test_without_losses_nothing_is_known() -> None:
    losses = noted([], [])
    assert read(losses).isnan().all()


def test_workers_are_apart() -> None:
    losses = RecentLosses(torch.zeros(2))
    losses.note(torch.tensor([3.0]), slice(1, 2))
    losses.restart(read(losses))
    losses.note(torch.tensor([1.0, 5.0]), ALL)
    assert read(losses).tolist() == [1.0, 4.0]
    losses.forget([1])
    assert read(losses).isnan().tolist() == [False, True]


def test_state_is_taken_back() -> None:
    first = noted([1.0] * 5, [2.0])
    second = RecentLosses(torch.zeros(1, dtype=torch.float64))
    second.load_state_dict(first.state_dict())
    for losses in (first, second):
        losses.note(torch.tensor([7.0]), ALL)
        losses.restart(read(losses))
        losses.note(torch.tensor([3.0]), ALL)
    assert read(first).tolist() == read(second).tolist()
