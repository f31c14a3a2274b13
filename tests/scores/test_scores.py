"""What workers report, against the recursions written out by hand."""

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import grawa
from grawa.math.leaves import Leaves, Stack
from grawa.math.norms import tensor_distances
from grawa.math.weights import uniform
from grawa.scores import Delayed, DisplacementLengths, NormTimesLoss, RmsGradientNorms, sum_groups
from grawa.scores.protocol import Score
from grawa.strategies.protocol import Communicator, State
from tests.helpers import Fleet, batches, plain_sgd

NORMS = torch.tensor(
    [[[1.0, 2.0], [4.0, 1.0]], [[3.0, 0.5], [2.0, 2.0]], [[2.0, 4.0], [8.0, 0.0]]],
    dtype=torch.float64,
)
"""(steps, K, L)"""


class Found:
    """Hosted workers on whom a probe finds what it is told to."""

    def __init__(self, found: Iterable[Tensor] = ()) -> None:
        self._found = iter(found)

    def gradient_norms_on(self, batch: Any, loss: Any) -> Tensor:
        return next(self._found)

    def losses_on(self, batch: Any, loss: Any) -> Tensor:
        return next(self._found)

    def displacement_norms(self, fragment: int = 0) -> Tensor:
        return next(self._found)


NOBODY = Found()
"""For scores that need nothing of the workers at a round."""


def index_of(index: int) -> int:
    return index


def no_loss(model: nn.Module, batch: int) -> Tensor:
    raise AssertionError("what is found is given")


PROBE = grawa.ProbeNorms(batch=index_of, loss=no_loss)
PROBE_LOSS = grawa.ProbeLoss(batch=index_of, loss=no_loss)


def recursion(values: Tensor, decay: float) -> Tensor:
    """m <- b m + (1 - b) n from zero, divided by 1 - b^steps: (steps, ...) -> (...)."""
    average = torch.zeros_like(values[0])
    for value in values:
        average = decay * average + (1 - decay) * value
    return average / (1 - decay ** len(values))


def test_training_norms_are_the_bias_corrected_average_over_the_local_steps() -> None:
    tracker = grawa.GradientNorms().tracker((0, 1), 2)
    for norms in NORMS:
        tracker.note_gradients(norms)
    torch.testing.assert_close(tracker.read(NOBODY), recursion(NORMS, 0.85), rtol=1e-13, atol=0.0)


def test_training_norms_start_again_after_each_round() -> None:
    tracker = grawa.GradientNorms().tracker((0, 1), 2)
    tracker.note_gradients(100 * NORMS[0])
    tracker.restart()
    for norms in NORMS[1:]:
        tracker.note_gradients(norms)
    torch.testing.assert_close(
        tracker.read(NOBODY), recursion(NORMS[1:], 0.85), rtol=1e-13, atol=0.0
    )


def test_without_a_new_step_the_last_score_holds() -> None:
    tracker = grawa.GradientNorms().tracker((0, 1), 2)
    assert tracker.read(NOBODY).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    tracker.note_gradients(NORMS[0])
    first = tracker.read(NOBODY)
    tracker.restart()
    assert torch.equal(tracker.read(NOBODY), first)
    tracker.note_gradients(NORMS[1])
    torch.testing.assert_close(tracker.read(NOBODY), NORMS[1], rtol=1e-13, atol=0.0)


def test_the_models_norm_is_the_sum_of_its_tensors_norms() -> None:
    tracker = grawa.GradientNorms(decay=0.5).tracker((0, 0), 2)
    for norms in NORMS:
        tracker.note_gradients(norms)
    expected = recursion(NORMS.sum(dim=2, keepdim=True), 0.5)
    torch.testing.assert_close(tracker.read(NOBODY), expected, rtol=1e-13, atol=0.0)


def test_groups_may_mix_tensors_in_any_order() -> None:
    norms = torch.tensor([[1.0, 10.0, 100.0, 1000.0], [2.0, 20.0, 200.0, 2000.0]])
    assert sum_groups(norms, (1, 0, 1, 2)).tolist() == [[10.0, 101.0, 1000.0], [20.0, 202.0, 2000]]


def test_a_step_with_a_gradient_that_is_not_finite_does_not_count() -> None:
    tracker = grawa.GradientNorms().tracker((0, 0), 2)
    tracker.note_gradients(torch.tensor([[1.0, 1.0], [3.0, 3.0]]))
    tracker.note_gradients(torch.tensor([[math.nan, 1.0], [3.0, 3.0]]))
    torch.testing.assert_close(tracker.read(NOBODY), torch.tensor([[2.0], [6.0]]))


def test_probe_norms_are_averaged_over_rounds() -> None:
    workers, tracker = Found(NORMS), PROBE.tracker((0, 1), 2)
    for seen in range(1, len(NORMS) + 1):
        tracker.note_gradients(torch.full((2, 2), 1e6))
        expected = recursion(NORMS[:seen], 0.9**8)
        torch.testing.assert_close(tracker.read(workers), expected, rtol=1e-13, atol=0.0)
        tracker.restart()


def test_each_probe_is_a_new_batch_of_the_same_sequence() -> None:
    asked: list[int] = []

    score = grawa.ProbeNorms(batch=asked.append, loss=no_loss)
    workers, first = Found([torch.ones(1, 1)] * 3), score.tracker((0,), 1)
    first.read(workers)
    first.read(workers)
    resumed = score.tracker((0,), 1)
    resumed.load_state_dict(saved(first.state_dict()))
    resumed.read(workers)
    assert asked == [0, 1, 2]


def test_a_probe_is_not_run_for_who_made_no_steps() -> None:
    workers = Found([torch.tensor([[1.0]]), torch.tensor([[2.0]])])
    tracker = replace(PROBE, decay=0.5).tracker((0,), 1)
    assert tracker.read(workers, anew=False).tolist() == [[1.0]]  # there is nothing yet to repeat
    assert tracker.read(workers, anew=False).tolist() == [[1.0]]
    torch.testing.assert_close(tracker.read(workers), torch.tensor([[(0.25 + 1.0) / 0.75]]))


def test_a_probe_that_is_not_finite_does_not_count() -> None:
    workers = Found([torch.tensor([[1.0, 2.0]]), torch.tensor([[5.0, math.inf]])])
    tracker = PROBE.tracker((0, 0), 1)
    tracker.read(workers)
    torch.testing.assert_close(tracker.read(workers), torch.tensor([[3.0]]))


def test_the_loss_is_the_mean_of_the_last_four() -> None:
    tracker = grawa.TrainingLoss().tracker((0, 0), 2)
    for loss in (100.0, 1.0, 2.0, 3.0, 6.0):
        tracker.note_losses(torch.tensor([loss, 10 * loss]))
    assert tracker.read(NOBODY).tolist() == [[3.0], [30.0]]


def test_the_window_of_losses_goes_on_over_rounds() -> None:
    tracker = grawa.TrainingLoss(window=3).tracker((0,), 1)
    for loss in (9.0, 1.0, 2.0):
        tracker.note_losses(torch.tensor([loss]))
    tracker.restart()
    tracker.note_losses(torch.tensor([6.0]))
    assert tracker.read(NOBODY).tolist() == [[3.0]]


def test_before_the_first_loss_nobody_is_ahead() -> None:
    assert grawa.TrainingLoss().tracker((0,), 3).read(NOBODY).tolist() == [[0.0]] * 3


def test_fewer_losses_than_the_window_are_averaged_as_they_are() -> None:
    tracker = grawa.TrainingLoss().tracker((0,), 1)
    tracker.note_losses(torch.tensor([1.0]))
    tracker.note_losses(torch.tensor([2.0]))
    assert tracker.read(NOBODY).tolist() == [[1.5]]


def test_losses_and_gradients_are_kept_apart() -> None:
    norms = grawa.GradientNorms().tracker((0, 0), 1)
    losses = grawa.TrainingLoss().tracker((0, 0), 1)
    for tracker in (norms, losses):
        tracker.note_gradients(torch.tensor([[3.0, 4.0]]))
        tracker.note_losses(torch.tensor([0.5]))
    torch.testing.assert_close(norms.read(NOBODY), torch.tensor([[7.0]]))
    assert losses.read(NOBODY).tolist() == [[0.5]]


@pytest.mark.parametrize(
    "score",
    [
        grawa.GradientNorms(),
        RmsGradientNorms(),
        grawa.TrainingLoss(window=2),
        NormTimesLoss(),
    ],
    ids=lambda s: type(s).__name__,
)
def test_a_saved_tracker_goes_on_where_it_was(score: Score) -> None:
    first, second = score.tracker((0, 0), 2), score.tracker((0, 0), 2)
    for norms in NORMS[:2]:
        first.note_gradients(norms)
        first.note_losses(norms[:, 0])
    second.load_state_dict(saved(first.state_dict()))
    for tracker in (first, second):
        tracker.note_gradients(NORMS[2])
        tracker.note_losses(NORMS[2][:, 0])
    assert torch.equal(first.read(NOBODY), second.read(NOBODY))


def test_a_saved_probe_goes_on_where_it_was() -> None:
    workers, first, second = Found(NORMS), PROBE.tracker((0, 0), 2), PROBE.tracker((0, 0), 2)
    for _ in range(2):
        first.read(workers)
        first.restart()
    second.load_state_dict(saved(first.state_dict()))
    assert torch.equal(first.read(workers), second.read(Found(NORMS[2:])))


def saved(state: dict[str, Any]) -> dict[str, Any]:
    """What a state is after a file."""
    return copy.deepcopy(state)


def test_only_norms_need_gradients_and_only_losses_need_losses() -> None:
    scores: list[Score] = [grawa.GradientNorms(), PROBE, grawa.TrainingLoss()]
    assert [score.is_norm for score in scores] == [True, True, False]
    assert [score.needs_gradients for score in scores] == [True, False, False]
    assert [score.needs_losses for score in scores] == [False, False, True]


@pytest.mark.parametrize("decay", [-0.1, 1.0, math.nan])
def test_a_decay_that_keeps_everything_is_refused(decay: float) -> None:
    for score in (grawa.GradientNorms(), RmsGradientNorms(), PROBE, PROBE_LOSS):
        with pytest.raises(grawa.UserError, match=rf"decay must lie in \[0, 1\), got {decay}"):
            replace(score, decay=decay)


def test_an_empty_window_is_refused() -> None:
    with pytest.raises(grawa.UserError, match="window must be at least 1, got 0"):
        grawa.TrainingLoss(window=0)


def test_a_loss_has_no_groups() -> None:
    with pytest.raises(grawa.UserError, match="use one group"):
        grawa.TrainingLoss().tracker((0, 1), 1)


def test_rms_norms_are_the_root_of_the_average_square_of_a_groups_norm() -> None:
    tracker = RmsGradientNorms(decay=0.5).tracker((0, 0), 2)
    assert tracker.read(NOBODY).tolist() == [[0.0], [0.0]]
    for norms in NORMS:
        tracker.note_gradients(norms)
    expected = recursion(NORMS.sum(dim=2, keepdim=True).square(), 0.5).sqrt()
    torch.testing.assert_close(tracker.read(NOBODY), expected, rtol=1e-13, atol=0.0)


def test_rms_norms_run_on_over_the_rounds() -> None:
    tracker = RmsGradientNorms().tracker((0, 1), 2)
    for norms in NORMS:
        tracker.note_gradients(norms)
        tracker.restart()
    expected = recursion(NORMS.square(), 0.99).sqrt()
    torch.testing.assert_close(tracker.read(NOBODY), expected, rtol=1e-12, atol=0.0)


def test_of_equal_mean_norms_the_rms_prefers_the_steady_one() -> None:
    tracker = RmsGradientNorms().tracker((0,), 2)
    for steady, noisy in ((2.0, 1.0), (2.0, 3.0)):
        tracker.note_gradients(torch.tensor([[steady], [noisy]]))
    steady_score, noisy_score = tracker.read(NOBODY).flatten().tolist()
    assert steady_score == pytest.approx(2.0)
    assert noisy_score > 2.2


def test_norm_times_loss_is_the_product_of_both() -> None:
    score = NormTimesLoss()
    tracker, norms, losses = (
        score.tracker((0, 1), 2),
        grawa.GradientNorms().tracker((0, 1), 2),
        grawa.TrainingLoss().tracker((0,), 2),
    )
    for step in NORMS:
        for each in (tracker, norms, losses):
            each.note_gradients(step)
            each.note_losses(step[:, 0] - 3.0)
    expected = norms.read(NOBODY) * losses.read(NOBODY).clamp_min(1e-12)
    assert torch.equal(tracker.read(NOBODY), expected)
    assert float(expected[0].max()) < 1e-11  # its loss is below zero
    assert bool((expected > 0).all())
    for each in (tracker, norms):
        each.restart()
        each.note_gradients(NORMS[0])
    assert torch.equal(
        tracker.read(NOBODY), norms.read(NOBODY) * losses.read(NOBODY).clamp_min(1e-12)
    )


def test_norm_times_loss_needs_what_its_parts_need() -> None:
    assert NormTimesLoss().needs_gradients
    assert NormTimesLoss().needs_losses
    assert not NormTimesLoss(norms=PROBE).needs_gradients
    assert not NormTimesLoss(norms=PROBE, loss=PROBE_LOSS).needs_losses


def test_probe_losses_are_averaged_over_rounds_and_belong_to_the_whole_model() -> None:
    workers = Found([torch.tensor([[1.0], [4.0]]), torch.tensor([[3.0], [math.nan]])])
    score = replace(PROBE_LOSS, decay=0.5)
    tracker = score.tracker((0, 0), 2)
    tracker.note_losses(torch.full((2,), 1e6))
    assert tracker.read(workers).tolist() == [[1.0], [4.0]]
    tracker.restart()
    torch.testing.assert_close(tracker.read(workers), torch.tensor([[(0.25 + 1.5) / 0.75], [4.0]]))
    with pytest.raises(grawa.UserError, match="whole model"):
        score.tracker((0, 1), 2)


def test_a_delayed_score_is_equal_for_all_until_its_round() -> None:
    score = Delayed(score=grawa.TrainingLoss(window=1), rounds=2)
    assert (score.is_norm, score.needs_gradients, score.needs_losses) == (False, False, True)
    tracker = score.tracker((0,), 2)
    seen = []
    for losses in ([1.0, 2.0], [3.0, math.inf], [5.0, 6.0]):
        tracker.note_losses(torch.tensor(losses))
        seen.append(tracker.read(NOBODY))
        tracker.restart()
    assert seen[0].tolist() == [[1.0], [1.0]]
    assert seen[1][0].tolist() == [1.0]
    assert seen[1][1].isnan().tolist() == [True]
    assert seen[2].tolist() == [[5.0], [6.0]]


def test_a_delayed_score_resumes_where_it_was() -> None:
    score = Delayed(score=grawa.TrainingLoss(window=1), rounds=2)
    first = score.tracker((0,), 1)
    first.note_losses(torch.tensor([4.0]))
    first.restart()
    second = score.tracker((0,), 1)
    second.load_state_dict(saved(first.state_dict()))
    assert second.read(NOBODY).tolist() == [[1.0]]
    second.restart()
    assert second.read(NOBODY).tolist() == [[4.0]]
    with pytest.raises(grawa.UserError, match="rounds must not be negative, got -1"):
        Delayed(score=grawa.TrainingLoss(), rounds=-1)


FRAGMENTED: dict[str, Score] = {
    "training": grawa.GradientNorms(),
    "rms": RmsGradientNorms(),
    "probe": PROBE,
    "product": NormTimesLoss(norms=PROBE),
    "later": Delayed(score=grawa.GradientNorms(), rounds=2),
}


@pytest.mark.parametrize("name", FRAGMENTED)
def test_fragments_have_scores_as_if_each_had_a_tracker_of_its_own(name: str) -> None:
    score, fragments = FRAGMENTED[name], 3
    together = score.tracker((0, 1), 2, fragments)
    apart = [score.tracker((0, 1), 2) for _ in range(fragments)]
    noted = torch.rand(20, 2, 2, dtype=torch.float64)
    found = [torch.rand(2, 2, dtype=torch.float64) for _ in noted]
    for step, norms in enumerate(noted):
        for tracker in (together, *apart):
            tracker.note_gradients(norms)
            tracker.note_losses(norms[:, 0])
        if step % 2:  # fragments take turns, and one comes twice as often
            fragment = (0, 1, 0, 2)[step // 2 % 4]
            own = apart[fragment].read(Found([found[step]]))
            assert torch.equal(together.read(Found([found[step]]), fragment), own)
            together.restart(fragment)
            apart[fragment].restart()
        if step == 10:
            resumed = score.tracker((0, 1), 2, fragments)
            resumed.load_state_dict(saved(together.state_dict()))
            together = resumed


@pytest.mark.parametrize("score", [PROBE, PROBE_LOSS, NormTimesLoss(norms=PROBE, loss=PROBE_LOSS)])
def test_a_score_is_a_value(score: Score) -> None:
    assert score == copy.deepcopy(score)
    assert len({score, copy.deepcopy(score)}) == 1
    assert "index_of" in repr(score)


def test_displacements_are_added_over_a_group_or_taken_as_one_vector() -> None:
    found = torch.tensor([[3.0, 4.0, 1.0]])
    added = grawa.DisplacementNorms().tracker((0, 0, 1), 1)
    joint = DisplacementLengths().tracker((0, 0, 1), 1)
    assert added.read(Found([found])).tolist() == [[7.0, 1.0]]
    assert joint.read(Found([found])).tolist() == [[5.0, 1.0]]


@pytest.mark.parametrize(
    "options",
    [{}, {"fragments": 2}, {"overlap_steps": 1}, {"fragments": 2, "overlap_steps": 1}],
    ids=str,
)
def test_displacements_are_what_workers_have_moved_since_the_last_round(
    options: dict[str, Any],
) -> None:
    """With a pull of 1, it is the sum of the last local steps, also if a round ran beside them."""
    fleet, steps = Fleet(2, optimizer=plain_sgd), list[Tensor]()
    reports: list[grawa.RoundReport] = []
    strategy = grawa.LGRAWA(score=grawa.DisplacementNorms(), pull=1.0, prox=0.0)
    averager = grawa.Averager(
        fleet.models, fleet.optimizers, strategy, sync_every=4, guard=None,
        on_round=reports.append, **options,
    )  # fmt: skip
    averager.attach()
    data = batches(13, 2)
    for index in range(13):
        losses = fleet.backward(data.inputs[index], data.targets[index])
        averager.record_loss(losses)
        steps.append(
            torch.stack([
                torch.cat([-0.05 * p.grad.flatten() for p in m.parameters() if p.grad is not None])
                for m in fleet.models
            ])
        )
        for optimizer in fleet.optimizers:
            optimizer.step()
    parts = options.get("fragments", 1)
    for report in reports:
        first = steps[max(0, report.step - 4) : report.step]
        moved = torch.stack(first).sum(dim=0)
        norms = torch.stack([x.norm(dim=1) for x in moved.split([24, 8, 16, 2], dim=1)], dim=1)
        own = [slice(0, 4)] if parts == 1 else [slice(0, 1), slice(1, 4)]
        if report.step >= 4:
            assert report.scores is not None
            fragment = own[report.fragment]
            torch.testing.assert_close(report.scores[:, fragment], norms[:, fragment])
            assert int((report.scores > 0).all(dim=0).sum()) == norms[:, fragment].shape[1]


def test_displacements_of_16_bits_are_computed_in_more() -> None:
    rows = {"x": torch.tensor([[1.0, 256.0], [3.0, 0.0]], dtype=torch.bfloat16)}
    leaves = {"x": torch.tensor([1.0, -1.0], dtype=torch.bfloat16)}
    found = tensor_distances(rows, leaves)
    assert found.dtype is torch.float32
    assert found.flatten().tolist() == pytest.approx([257.0, 5.0**0.5])


@dataclass(frozen=True, kw_only=True)
class WithoutCenter(grawa.Strategy):
    """As a user may write it: with a score, and nothing in its state."""

    score: Score | None = field(default=grawa.DisplacementNorms())

    def sync(
        self, params: Stack, scores: Tensor | None, state: State, comm: Communicator, round: int
    ) -> Tensor | None:
        return None

    def consensus(self, params: Stack, state: State, comm: Communicator) -> Leaves:
        return comm.weighted_mean(params, uniform(comm.num_workers))


@pytest.mark.parametrize(
    "score",
    [
        grawa.DisplacementNorms(),
        Delayed(score=grawa.DisplacementNorms(), rounds=1),
        NormTimesLoss(norms=grawa.DisplacementNorms()),
    ],
    ids=lambda score: type(score).__name__,
)
def test_a_method_without_a_center_can_not_have_displacements(score: Score) -> None:
    fleet = Fleet(2)
    with pytest.raises(grawa.UserError, match="WithoutCenter keeps none in its state"):
        grawa.Averager(fleet.models, fleet.optimizers, WithoutCenter(score=score))
