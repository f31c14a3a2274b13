"""Who takes part in a round: every reason to be left out, and every reason not to be."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

import grawa
from grawa.errors import DivergedError, UserError
from grawa.lab.simulate.clock import VirtualClock
from grawa.rounds.guard import Guard, Health, Verdict, trusting
from tests.helpers import Fleet, Simulated, batches, mlp

UNKNOWN = math.nan


def health(
    *,
    finite: list[bool] | None = None,
    sizes: list[float] | None = None,
    losses: list[float] | None = None,
    scores: list[list[float]] | None = None,
    are_norms: bool = True,
) -> Health:
    """Four workers in good health, unless told otherwise; float64, as from `gather`."""
    norms = torch.tensor(sizes or [1.0] * 4, dtype=torch.float64)
    return Health(
        torch.where(torch.tensor(finite or [True] * 4), norms, torch.nan),
        torch.tensor(losses or [UNKNOWN] * 4, dtype=torch.float64),
        None if scores is None else torch.tensor(scores, dtype=torch.float64),
        are_norms,
    )


def after(fit_steps: list[float], well: Health | None = None) -> Health:
    """Workers that were last unfit so many local steps ago."""
    return (well or health())._replace(fit_steps=torch.tensor(fit_steps, dtype=torch.float64))


def out(verdict: Verdict) -> list[list[int]]:
    """The workers that are left out, and those that are reset."""
    return [torch.where(rows)[0].tolist() for rows in (~verdict.active, verdict.reset)]


def test_workers_in_good_health_all_take_part_with_their_own_scores() -> None:
    scores = [[1.0, 2.0], [1.5, 2.0], [2.0, 2.0], [1.0, 3.0]]
    verdict = Guard().judge(health(losses=[1.0, 1.1, 0.9, 1.0], scores=scores))
    assert out(verdict) == [[], []]
    assert verdict.left_out == {}
    assert verdict.scores is not None
    assert verdict.scores.tolist() == scores


def test_parameters_that_are_not_finite_leave_a_worker_out_and_reset_it() -> None:
    verdict = Guard().judge(
        health(finite=[True, False, True, True], scores=[[1.0], [1.0], [2.0], [3.0]])
    )
    assert out(verdict) == [[1], [1]]
    assert verdict.left_out == {1: "parameters are not finite"}
    assert verdict.scores is not None
    assert verdict.scores[verdict.active].flatten().tolist() == [1.0, 2.0, 3.0]
    assert bool(torch.isfinite(verdict.scores).all())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_score_that_is_not_finite_in_any_group_leaves_a_worker_out_and_resets_it(
    bad: float,
) -> None:
    scores = [[1.0, 1.0], [1.0, 1.0], [1.0, bad], [1.0, 1.0]]
    verdict = Guard().judge(health(scores=scores))
    assert out(verdict) == [[2], [2]]
    assert verdict.left_out == {2: "score is not finite"}
    assert verdict.scores is not None
    assert bool(torch.isfinite(verdict.scores).all())


def test_an_infinite_loss_leaves_a_worker_out_and_resets_it() -> None:
    verdict = Guard().judge(health(losses=[1.0, 1.0, 1.0, math.inf]))
    assert out(verdict) == [[3], [3]]
    assert verdict.left_out == {3: "loss is not finite"}


def test_a_loss_above_the_gate_leaves_a_worker_out_but_does_not_reset_it() -> None:
    # The median is 1, so the gate is 2 * 1 + 0.3.
    verdict = Guard().judge(health(losses=[1.0, 1.0, 2.31, 0.5]))
    assert out(verdict) == [[2], []]
    assert list(verdict.left_out) == [2]
    assert "loss 2.31 is above 2.3 (median 1)" in verdict.left_out[2]


def test_a_loss_below_the_gate_takes_part() -> None:
    assert out(Guard().judge(health(losses=[1.0, 1.0, 2.29, 0.0]))) == [[], []]


def test_the_margin_protects_losses_near_zero() -> None:
    assert out(Guard().judge(health(losses=[0.0, 0.0, 0.0, 0.29]))) == [[], []]
    assert out(Guard().judge(health(losses=[0.0, 0.0, 0.0, 0.31]))) == [[3], []]


def test_of_two_halves_the_one_with_the_smaller_losses_is_believed() -> None:
    assert out(Guard().judge(health(losses=[0.1, 2.0, 0.1, 2.0]))) == [[1, 3], []]


def moving(*moved: float, steps: list[float] | None = None) -> Health:
    """Four workers that have moved so far from the center, in so many steps."""
    known = health()._replace(displacements=torch.tensor(moved, dtype=torch.float64))
    return known if steps is None else known._replace(new_steps=torch.tensor(steps).double())


def test_a_displacement_many_times_the_median_leaves_a_worker_out_if_that_is_asked_for() -> None:
    far = moving(1.0, 1.1, 0.9, 3.5)
    assert out(Guard().judge(far)) == [[], []]
    verdict = Guard(displacement_ratio=3.0).judge(far)
    assert out(verdict) == [[3], []]
    assert verdict.unfit.tolist() == [False, False, False, True]
    assert verdict.left_out == {3: "displacement 3.5 is above 3 (median 1)"}
    assert out(Guard(displacement_ratio=4.0).judge(far)) == [[], []]


def test_more_steps_explain_a_longer_way() -> None:
    guard = Guard(displacement_ratio=3.0)
    twice = moving(1.0, 1.0, 1.0, 6.0, steps=[8.0, 8.0, 8.0, 16.0])
    assert out(guard.judge(twice)) == [[], []]
    assert out(guard.judge(moving(1.0, 1.0, 1.0, 6.0, steps=[8.0] * 4))) == [[3], []]


def test_where_displacements_are_not_known_nobody_is_left_out_for_them() -> None:
    assert out(Guard(displacement_ratio=3.0).judge(moving(*[UNKNOWN] * 4))) == [[], []]
    assert out(Guard(displacement_ratio=3.0).judge(health())) == [[], []]


def test_a_worker_that_runs_away_is_left_out_by_its_displacement_in_training() -> None:
    reports: list[grawa.RoundReport] = []
    data = batches(12, 4, scales=(1.0, 1.0, 1.0, 30.0))
    fleet = Fleet(4)
    guard = Guard(displacement_ratio=3.0, size_ratio=math.inf)
    with grawa.Averager(
        fleet.models,
        fleet.optimizers,
        grawa.LocalSGD(),
        sync_every=4,
        guard=guard,
        fragments=2,
        on_round=reports.append,
    ) as averager:
        fleet.train(data, averager, tell_loss=False)
    assert all("displacement" in report.left_out[3] for report in reports[:4])
    assert {worker for report in reports for worker in report.left_out} == {3}


def test_a_method_without_a_center_can_not_be_guarded_by_displacements() -> None:
    fleet = Fleet(2)
    guard = Guard(displacement_ratio=3.0)
    with pytest.raises(UserError, match=r"displacement_ratio compares .* DataParallel keeps none"):
        grawa.Averager(fleet.models, fleet.optimizers, grawa.DataParallel(), guard=guard)


def test_parameters_many_times_as_large_as_the_others_reset_a_worker() -> None:
    verdict = Guard().judge(health(sizes=[10.0, 11.0, 9.0, 300.0], losses=[1.0, 1.0, 1.0, 0.0]))
    assert out(verdict) == [[3], [3]]
    assert verdict.left_out[3] == "parameter norm 300 is above 30 (median 10)"
    assert out(Guard().judge(health(sizes=[10.0, 11.0, 9.0, 29.0]))) == [[], []]


def test_workers_of_equal_size_zero_take_part() -> None:
    assert out(Guard().judge(health(sizes=[0.0, 0.0, 0.0, 0.0]))) == [[], []]
    # A model that starts at zero, and workers of which some have not moved yet.
    assert out(Guard().judge(health(sizes=[0.0, 0.0, 0.1, 0.2]))) == [[], []]


def test_unknown_losses_leave_the_gate_open() -> None:
    assert out(Guard().judge(health(losses=[UNKNOWN] * 4))) == [[], []]
    # Those that are known are still compared: their median is 1.
    some = Guard().judge(health(losses=[UNKNOWN, 1.0, 1.0, 9.0]))
    assert out(some) == [[3], []]


def test_those_who_are_not_finite_do_not_count_in_the_median_loss() -> None:
    verdict = Guard().judge(
        health(finite=[True, True, False, False], losses=[1.0, 1.2, 50.0, 60.0])
    )
    assert out(verdict) == [[2, 3], [2, 3]]
    verdict = Guard().judge(health(losses=[1.0, 9.0, math.inf, 1.0]))
    assert out(verdict) == [[1, 2], [2]]


def test_equal_losses_pass_the_gate_whatever_their_sign() -> None:
    # A log-likelihood of a density, or a reward, makes losses negative.
    assert out(Guard().judge(health(losses=[-3.0, -3.0, -3.0, -3.1]))) == [[], []]


def test_norms_are_floored_at_half_the_median_of_those_who_take_part() -> None:
    verdict = Guard().judge(
        health(
            losses=[1.0, 1.0, 1.0, 9.0],
            scores=[[0.1, 8.0], [2.0, 2.0], [4.0, 0.0], [100.0, 100.0]],
        )
    )
    assert verdict.scores is not None
    # A norm of zero says that a worker has not trained a tensor: it stays.
    assert verdict.scores[:3].tolist() == [[1.0, 8.0], [2.0, 2.5], [4.0, 0.0]]


def believed(guard: Guard, losses: list[float], norms: list[float]) -> list[float]:
    verdict = guard.judge(health(losses=losses, scores=[[norm] for norm in norms]))
    assert out(verdict) == [[], []]
    assert verdict.scores is not None
    return verdict.scores.flatten().tolist()


@pytest.mark.parametrize(
    ("losses", "believed_norm"),
    [
        ([2.0, 2.3, 2.1, 2.2], 2.5),  # it has learnt nothing, and its gradients are small
        ([2.0, 1.9, 2.1, 2.2], 1.25),  # it is ahead of the others
        ([2.0, 2.1, 2.1, 2.2], 1.25),  # it is in the middle
        ([-2.1, -1.9, -2.1, -2.2], 2.5),
        ([UNKNOWN] * 4, 1.25),
    ],
)
def test_a_small_norm_counts_for_a_lot_only_if_the_loss_is_small_too(
    losses: list[float], believed_norm: float
) -> None:
    norms = [2.0, 0.1, 3.0, 4.0]
    assert believed(Guard(), losses, norms) == [2.0, believed_norm, 3.0, 4.0]


def test_what_a_norm_must_be_earned_by_is_an_option() -> None:
    losses, norms = [2.0, 2.3, 2.1, 2.2], [2.0, 0.1, 3.0, 4.0]
    assert believed(Guard(unearned_floor=0.8), losses, norms) == [2.0, 2.0, 3.0, 4.0]
    assert believed(Guard(unearned_floor=0.0), losses, norms) == [2.0, 1.25, 3.0, 4.0]


def test_those_who_are_left_out_have_no_say_in_what_a_small_loss_is() -> None:
    verdict = Guard().judge(
        health(losses=[1.0, 1.2, 9.0, 9.0], scores=[[1.0], [0.1], [1.0], [1.0]])
    )
    assert out(verdict) == [[2, 3], []]
    assert verdict.scores is not None
    assert verdict.scores[verdict.active].flatten().tolist() == [1.0, 0.55]


def test_scores_that_are_not_norms_have_no_floor() -> None:
    verdict = Guard().judge(health(scores=[[0.1], [2.0], [4.0], [8.0]], are_norms=False))
    assert verdict.scores is not None
    assert verdict.scores.flatten().tolist() == [0.1, 2.0, 4.0, 8.0]


def test_the_thresholds_are_options() -> None:
    losses, scores = [1.0, 1.0, 1.0, 5.0], [[0.1], [2.0], [4.0], [4.0]]
    lenient = Guard(norm_floor=0.0, loss_ratio=4.0, loss_margin=1.5)
    verdict = lenient.judge(health(losses=losses, scores=scores))
    assert out(verdict) == [[], []]
    assert verdict.scores is not None
    assert verdict.scores.tolist() == scores
    strict = Guard(norm_floor=1.0, loss_ratio=1.0, loss_margin=0.0)
    verdict = strict.judge(health(losses=losses, scores=scores))
    assert out(verdict) == [[3], []]
    assert verdict.scores is not None
    assert verdict.scores[verdict.active].flatten().tolist() == [2.0, 2.0, 4.0]


def test_an_infinite_margin_turns_the_gate_off() -> None:
    assert out(Guard(loss_margin=math.inf).judge(health(losses=[1.0, 1.0, 1.0, 1e9]))) == [[], []]


@pytest.mark.parametrize(
    ("sick", "why"),
    [
        (health(finite=[False] * 4), "worker 0: parameters are not finite"),
        (health(scores=[[math.nan]] * 4), "worker 0: score is not finite"),
        (health(losses=[math.inf] * 4), "worker 0: loss is not finite"),
        (
            health(finite=[True, False, True, True], losses=[math.inf, 1.0, math.inf, math.inf]),
            "worker 0: loss is not finite",
        ),
    ],
)
def test_when_nobody_is_finite_training_has_diverged(sick: Health, why: str) -> None:
    with pytest.raises(DivergedError, match=f"all 4 workers have diverged .{why}"):
        Guard().judge(sick)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm_floor": -0.1}, r"norm_floor must lie in \[0, 1\], got -0.1"),
        ({"norm_floor": 1.5}, r"norm_floor must lie in \[0, 1\], got 1.5"),
        ({"norm_floor": math.nan}, r"norm_floor must lie in \[0, 1\], got nan"),
        ({"unearned_floor": 1.5}, r"unearned_floor must lie in \[0, 1\], got 1.5"),
        ({"loss_ratio": 0.9}, "loss_ratio must be at least 1, got 0.9"),
        ({"loss_ratio": math.nan}, "loss_ratio must be at least 1, got nan"),
        ({"loss_margin": -0.1}, "loss_margin must not be negative, got -0.1"),
        ({"loss_margin": math.nan}, "loss_margin must not be negative, got nan"),
        ({"size_ratio": 1.0}, "size_ratio must be above 1, got 1.0"),
        ({"size_ratio": math.nan}, "size_ratio must be above 1, got nan"),
        ({"probation": -1}, "probation must be at least 0, got -1"),
        ({"report_after": 0}, "report_after must be at least 1, got 0"),
    ],
)
def test_thresholds_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Guard(**options)


def test_without_a_guard_everyone_takes_part_as_they_are() -> None:
    scores = [[0.001], [math.nan], [1.0], [1.0]]
    sick = health(
        finite=[True, False, True, True], losses=[1.0, math.inf, 1.0, 99.0], scores=scores
    )
    verdict = trusting(sick)
    assert out(verdict) == [[], []]
    assert verdict.left_out == {}
    assert verdict.scores is sick.scores


def test_a_verdict_does_not_depend_on_the_workers_order() -> None:
    order = [2, 0, 3, 1]
    well = health(
        finite=[True, True, False, True],
        losses=[1.0, 9.0, 1.0, 1.0],
        scores=[[0.1], [1.0], [2.0], [4.0]],
    )
    assert well.scores is not None
    shuffled = Health(well.sizes[order], well.losses[order], well.scores[order], True)
    first, second = Guard().judge(well), Guard().judge(shuffled)
    pairs: list[tuple[Tensor | None, Tensor | None]] = [
        (first.active, second.active),
        (first.scores, second.scores),
        (first.reset, second.reset),
    ]
    assert all(a is not None and b is not None and torch.equal(a[order], b) for a, b in pairs)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("speeds", [[1.0, 0.2], [1.0, 0.2, 0.2, 0.2], [1.0, 1.0, 0.1], [0.05, 1.0]])
def test_a_fast_worker_of_a_model_that_starts_at_zero_is_not_reset(
    speeds: list[float], momentum: float
) -> None:
    def zeros() -> nn.Module:
        model = mlp()
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
        nn.init.ones_(model.get_parameter("0.bias"))
        model.get_parameter("0.bias").requires_grad_(False)
        return model

    def trained(model: nn.Module) -> Optimizer:
        params = [p for p in model.parameters() if p.requires_grad]
        return SGD(params, lr=0.02, momentum=momentum)

    fleet = Fleet(len(speeds), zeros, trained)
    clock = VirtualClock(1.0, speeds=speeds)
    simulated = Simulated(fleet, grawa.LGRAWA(), clock, schedule=grawa.SharedCount(4))
    simulated.train_one_by_one(batches(40, len(speeds)), 16 * len(speeds))
    assert len(simulated.reports) >= 3
    assert all(report.left_out == {} for report in simulated.reports)


def test_more_steps_excuse_no_fault() -> None:
    sizes = [300.0, 10.0, 10.0, 10.0]
    steps = torch.tensor([10.0, 2.0, 2.0, 2.0], dtype=torch.float64)
    suspect = health(sizes=sizes)._replace(new_steps=steps, start_size=9.9)
    assert out(Guard().judge(suspect)) == [[0], [0]]
    explained = suspect._replace(start_size=0.0)
    assert out(Guard().judge(explained)) == [[], []]


def test_a_worker_beside_idle_ones_is_not_reset_for_its_size() -> None:
    steps = torch.tensor([8.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    alone = health(sizes=[5.0, 1.0, 1.0, 1.0])._replace(new_steps=steps, start_size=1.0)
    assert out(Guard().judge(alone)) == [[], []]


def test_a_worker_takes_part_again_when_it_has_been_fit_for_long_enough() -> None:
    verdict = Guard().judge(after([math.inf, 63.0, 64.0, math.inf]))
    assert out(verdict) == [[1], []]
    assert verdict.left_out == {1: "on probation, fit for 63 of 64 local steps"}
    assert not bool(verdict.unfit.any())  # or probation would never end
    assert out(Guard(probation=0).judge(after([0.0, 0.0, math.inf, math.inf]))) == [[], []]


def test_if_nobody_else_is_fit_those_on_probation_take_part() -> None:
    assert out(Guard().judge(after([0.0, 3.0, 8.0, 8.0]))) == [[], []]
    only = health(finite=[False, True, False, True], losses=[1.0, 1.0, 1.0, 9.0])
    verdict = Guard().judge(after([math.inf, 2.0, math.inf, math.inf], only))
    assert verdict.active.tolist() == [False, True, False, False]
    assert verdict.unfit.tolist() == [True, False, True, True]


def test_small_norms_are_limited_by_those_who_take_part_not_by_those_on_probation() -> None:
    scores = [[0.1], [2.0], [4.0], [100.0]]
    verdict = Guard().judge(after([math.inf, math.inf, math.inf, 1.0], health(scores=scores)))
    assert verdict.scores is not None
    assert verdict.scores[verdict.active].flatten().tolist() == [1.0, 2.0, 4.0]


def test_a_dropped_worker_has_no_say_even_when_it_is_fit() -> None:
    gone = torch.tensor([False, False, False, True])
    well = health(losses=[1.0, 1.0, 9.0, 1.0])._replace(dropped=gone)
    verdict = Guard().judge(well)
    assert out(verdict) == [[2, 3], []]
    assert verdict.left_out[3] == "dropped"
    sick = health(finite=[True, True, True, False])._replace(dropped=gone)
    assert Guard().judge(sick).left_out == {3: "dropped; parameters are not finite"}
    assert out(Guard().judge(sick)) == [[3], [3]]
    # Of three workers the median would be 1 with the dropped one's, and is 5 without it.
    median = health(losses=[5.0, 6.0, 7.0, 1.0])._replace(dropped=gone)
    assert out(Guard().judge(median)) == [[3], []]


def test_a_job_does_not_go_on_with_dropped_workers_alone() -> None:
    gone = torch.tensor([False, True, False, False])
    with pytest.raises(DivergedError, match="all workers but 1 dropped ones have diverged"):
        Guard().judge(health(finite=[False, True, False, False])._replace(dropped=gone))
