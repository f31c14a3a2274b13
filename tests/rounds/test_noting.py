"""Norms are noted of the last local steps before a round, and now and then before."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

import grawa
from grawa.rounds.noting import Noting
from grawa.scores import Delayed, GradientNorms, NormTimesLoss, RmsGradientNorms

DECAY = 0.85
WINDOW = 25  # the first number of steps n for which 0.85^n is at most 0.02


def nothing(averager: grawa.Averager, step: int) -> None:
    """Called at a step, by default."""


def scores_of(
    steps: int,
    sync_every: int,
    *,
    layers: int = 1,
    before: Callable[[grawa.Averager, int], object] = nothing,
    after: Callable[[grawa.Averager, int], object] = nothing,
    **options: Any,
) -> list[float]:
    """The scores of each round of two workers whose gradients are the number of the step.

    Args:
        steps: local steps.
        sync_every: of the `Averager`.
        layers: of the model, with one number each; scores are divided by it.
        before: called before each optimizer step.
        after: called after it.
        options: of the `Averager`.
    """
    models = [
        nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(layers))).double()
        for _ in range(2)
    ]
    optimizers = [SGD(model.parameters(), lr=0.0) for model in models]
    scores: list[float] = []

    def note(report: grawa.RoundReport) -> None:
        assert report.scores is not None
        scores.append(float(report.scores[0, 0]) / layers)

    options = {"strategy": grawa.MGRAWA(), **options}
    with grawa.Averager(
        models, optimizers, sync_every=sync_every, on_round=[note], **options
    ) as averager:
        for parameter in models[1].parameters():
            nn.init.ones_(parameter)  # equal workers would be warned of
        for step in range(1, steps + 1):
            for model in models:
                for parameter in model.parameters():
                    parameter.grad = torch.full_like(parameter, float(step))
            before(averager, step)
            for optimizer in optimizers:
                optimizer.step()
            after(averager, step)
    return scores


def mean_of(noted: list[int], last: int) -> float:
    """The mean of the steps' numbers by weights that fall with each step before the last one."""
    weights = [DECAY ** (last - step) for step in noted]
    return sum(w * s for w, s in zip(weights, noted, strict=True)) / sum(weights)


def test_a_short_cycle_counts_all_its_steps() -> None:
    expected = [mean_of(list(range(1 + 20 * i, 21 + 20 * i)), 20 * (i + 1)) for i in range(2)]
    assert scores_of(40, 20) == pytest.approx(expected, rel=1e-12)


def test_a_long_cycle_counts_its_last_steps_and_one_in_25_before() -> None:
    noted = [1, 26, 51, *range(101 - WINDOW, 101)]
    assert scores_of(100, 100) == pytest.approx([mean_of(noted, 100)], rel=1e-12)


def test_all_steps_would_have_given_nearly_the_same_score() -> None:
    (score,) = scores_of(100, 100)
    assert score == pytest.approx(mean_of(list(range(1, 101)), 100), rel=0.01)


def test_a_round_that_nobody_foresaw_has_the_norms_noted_by_then() -> None:
    def call(averager: grawa.Averager, step: int) -> None:
        if step == 30:
            averager.synchronize()

    first, *_ = scores_of(30, 1000, after=call)
    assert first == pytest.approx(mean_of([1, 26], 30), rel=1e-12)


def test_the_last_round_of_a_run_has_norms_too() -> None:
    assert scores_of(10, 1000) == [1.0]


def test_a_round_soon_after_another_keeps_its_scores() -> None:
    def call(averager: grawa.Averager, step: int) -> None:
        if step == 110:
            averager.synchronize()

    first, second, *_ = scores_of(110, 105, after=call)
    assert second == first


def test_every_fragment_has_a_window_of_its_own() -> None:
    early = [1, *range(26, 51)]
    first, second, *_ = scores_of(100, 100, layers=2, fragments=2)
    assert first == pytest.approx(mean_of(early, 50), rel=1e-12)
    assert second == pytest.approx(mean_of([*early, 51, *range(76, 101)], 100), rel=1e-12)


@pytest.mark.parametrize("pace", [1, 4, 40, 400])
def test_a_worker_that_makes_few_steps_of_all_has_norms_at_every_round(pace: int) -> None:
    """With steps counted together, a slow worker sees the count leap."""
    noting, noted, due = Noting(WINDOW, num_hosted=1), 0, 100.0
    position = 0.0
    for step in range(1, 1000 // pace + 1000):
        noted += noting.steps(slice(0, 1), step, left=(due - position) / pace - 1) > 0
        position += pace
        if position >= due:
            assert noted
            noted, due = 0, due + 100.0


@pytest.mark.parametrize(
    ("score", "steps"),
    [
        (GradientNorms(), WINDOW),
        (GradientNorms(decay=0.0), 1),
        (GradientNorms(decay=0.5), 6),
        (GradientNorms(decay=0.99), 390),
        (Delayed(score=GradientNorms(), rounds=2), WINDOW),
        (NormTimesLoss(), WINDOW),
        (RmsGradientNorms(), None),
        (NormTimesLoss(norms=RmsGradientNorms()), None),
    ],
)
def test_the_window_follows_from_the_decay(score: Any, steps: int | None) -> None:
    assert score.norm_steps == steps
    if isinstance(score, GradientNorms) and score.decay:
        assert score.decay**score.norm_steps <= 0.02 < score.decay ** (score.norm_steps - 1)


class _AllSteps:
    """A score of a user's own, written before there was a window."""

    is_norm, needs_gradients, needs_losses = True, True, False

    def __init__(self) -> None:
        self.noted: list[float] = []

    def tracker(self, groups: Any, num_hosted: int, num_fragments: int = 1) -> "_AllSteps":
        return self

    def note_gradients(self, norms: Tensor) -> None:
        self.noted.append(float(norms[0, 0]))

    def note_losses(self, losses: Tensor) -> None: ...

    def read(self, workers: Any, fragment: int = 0, anew: bool = True) -> Tensor:
        return torch.ones(2, 1)

    def restart(self, fragment: int = 0) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def test_a_score_of_ones_own_without_a_window_gets_all_steps() -> None:
    score = _AllSteps()
    scores_of(60, 60, strategy=grawa.MGRAWA(score=score))  # type: ignore[arg-type]
    assert score.noted == [float(step) for step in range(1, 61)]


def test_norms_from_clipping_count_at_the_same_steps() -> None:
    found = scores_of(100, 100, before=lambda averager, _: averager.clip_grad_norm_(0.5))
    assert found == pytest.approx(scores_of(100, 100), rel=1e-12)
