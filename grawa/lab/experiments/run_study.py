"""A study from its first trial to its last, going on where it stopped."""

import math
from collections.abc import Callable, Mapping, Sequence

from grawa.lab.experiments.pace import affordable_steps
from grawa.lab.experiments.pool import TrialPool
from grawa.lab.experiments.study import Study, Trial
from grawa.lab.experiments.study_folder import StudyFolder
from grawa.lab.experiments.trial import Prepare, Result

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
