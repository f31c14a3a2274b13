"""A study from its first trial to its last, going on where it stopped."""

import math
from collections.abc import Callable, Mapping, Sequence

from grawa.errors import UserError
from grawa.experiments.pool import TrialPool
from grawa.experiments.study import Arm, Study, Trial
from grawa.experiments.study_folder import StudyFolder
from grawa.experiments.trial import Prepare, Result

OnResult = Callable[[Result, bool], object]
"""Told of each result, and whether it was there before."""


def run_study(
    study: Study, folder: StudyFolder, prepare: Prepare, jobs: int, on_result: OnResult
) -> None:
    """Runs every trial that has no result yet.

    First, what a step of each arm costs on the axis, to give each as many steps as fit; then the
    settings on the validation seeds; then, with the best of them, the seeds that count.

    Args:
        study: what is asked.
        folder: where results are kept.
        prepare: makes tasks and strategies; importable by a new process.
        jobs: trials at a time.
        on_result: told of each.
    """
    with TrialPool(prepare, jobs) as pool:
        runner = _Runner(folder, pool, on_result)
        steps = affordable_steps(study, runner.run(study.pace_trials()))
        chosen = best_settings(study, runner.run(study.tune_trials(steps)))
        runner.run(study.test_trials(steps, chosen))


class _Runner:
    """Runs what is left of some trials."""

    def __init__(self, folder: StudyFolder, pool: TrialPool, on_result: OnResult) -> None:
        self._folder, self._pool, self._on_result = folder, pool, on_result
        self._known = {result.key: result for result in folder.found().results}

    def run(self, trials: Sequence[Trial]) -> list[Result]:
        """The results of these trials, in their order."""
        found = {t.key: self._known[t.key] for t in trials if t.key in self._known}
        for result in found.values():
            self._on_result(result, True)
        left = [trial for trial in trials if trial.key not in found]
        for result in self._pool.run(left):
            self._folder.append(result)
            self._on_result(result, False)
            found[result.key] = result
        return [found[trial.key] for trial in trials]


def affordable_steps(study: Study, paces: Sequence[Result]) -> dict[str, int]:
    """How many local steps each arm can make for the same amount on the axis.

    The arm whose steps cost least makes `steps` of them; what they cost is what each may spend.

    Args:
        study: what is asked.
        paces: results of `pace_trials`.

    Returns:
        Arm -> steps, to the nearest whole round.

    Raises:
        UserError: if some arm can't make a round, or nothing is spent at all.
    """
    most = study.base.steps
    assert most is not None, "a study ends its runs by steps"
    if study.axis == "steps":
        return {arm.name: most for arm in study.arms}
    costs = {result.arm: _cost_of_a_step(result, study.axis) for result in paces}
    free = [name for name, cost in costs.items() if not cost > 0.0]
    if free:
        raise UserError(
            f"no common axis: {free[0]} spends no {study.axis} at all; take another --axis"
        )
    spend = most * min(costs.values())
    steps = {arm.name: _whole_rounds(study, arm, spend / costs[arm.name]) for arm in study.arms}
    _check_overlap(study.axis, paces, costs, steps)
    return steps


def _check_overlap(
    axis: str, paces: Sequence[Result], costs: Mapping[str, float], steps: Mapping[str, int]
) -> None:
    """Refuses runs of which some would end before others are first measured."""
    begins = {pace.arm: float(pace.curve.column(axis)[0]) for pace in paces}
    ends = {
        pace.arm: float(pace.curve.column(axis)[-1])
        + (steps[pace.arm] - pace.curve.steps[-1]) * costs[pace.arm]
        for pace in paces
    }
    late, short = max(begins, key=begins.__getitem__), min(ends, key=ends.__getitem__)
    if begins[late] > ends[short]:
        raise UserError(
            f"no common axis: {late} would first be measured at {begins[late]:.9g} {axis}, and "
            f"{short} with {steps[short]} steps end at {ends[short]:.9g}; take more --steps or "
            "another --axis"
        )


def _cost_of_a_step(pace: Result, axis: str) -> float:
    """The difference between the curve's last two points, by which starting up cancels."""
    if pace.failure or len(pace.curve.steps) < 2:
        why = pace.failure or "it makes less than two rounds"
        raise UserError(f"can't tell what a step of {pace.arm} costs: {why}; take --axis steps")
    spent, steps = pace.curve.column(axis), pace.curve.steps
    return float(spent[-1] - spent[-2]) / (steps[-1] - steps[-2])


def _whole_rounds(study: Study, arm: Arm, steps: float) -> int:
    every = 1 if arm.shares_gradients else _sync_every(study, arm)
    whole = round(steps / every) * every
    if whole < 1:
        raise UserError(
            f"no common axis: {arm.name} can't make a round for the {study.axis} that the others "
            f"spend on {study.base.steps} steps; take more --steps or another --axis"
        )
    return whole


def _sync_every(study: Study, arm: Arm) -> int:
    every: int = arm.settings[0].get("sync_every", study.base.sync_every)
    return every


def best_settings(study: Study, tuned: Sequence[Result]) -> dict[tuple[str, str], int]:
    """Each arm's setting with the smallest mean error on the validation seeds.

    Args:
        study: what is asked.
        tuned: results of `tune_trials`; some may be missing.

    Returns:
        (arm, condition) -> which setting; the first one where nothing was tried.
    """
    chosen = {}
    for arm in study.arms:
        for condition in study.conditions:
            own = [r for r in tuned if r.arm == arm.name]
            if not study.tune_conditions:
                own = [r for r in own if r.condition == condition.name]
            means = mean_errors(own)
            best = min(means, key=lambda i: (means[i], i), default=0)
            chosen[arm.name, condition.name] = best
    return chosen


def mean_errors(tuned: Sequence[Result]) -> Mapping[int, float]:
    """Mean error of each setting; infinite where a trial failed.

    Returns:
        Setting -> mean error.
    """
    means = {}
    for setting in sorted({result.setting for result in tuned}):
        errors = [r.error for r in tuned if r.setting == setting]
        known = [error for error in errors if error is not None]
        means[setting] = sum(known) / len(known) if len(known) == len(errors) else math.inf
    return means
