"""Runs the trials of a study, and continues an interrupted study where it stopped."""

import math
from collections.abc import Callable, Mapping, Sequence

from grawa.lab.experiments.pace import affordable_steps
from grawa.lab.experiments.pool import TrialPool
from grawa.lab.experiments.study import Study, Trial
from grawa.lab.experiments.study_folder import StudyFolder
from grawa.lab.experiments.trial import Prepare, Result

OnResult = Callable[[Result, bool], object]
"""Called with each result, and whether it was read from the folder."""


def run_study(
    study: Study,
    folder: StudyFolder,
    prepare: Prepare,
    jobs: int,
    on_result: OnResult,
    tell: Callable[[str], object] = lambda _: None,
) -> None:
    """Runs every trial that has no result yet.

    First the cost of a step of each arm is measured on the axis, to find how many steps each can
    afford; then all settings run on the validation seeds; then the best ones on the test seeds.

    Args:
        study: the study.
        folder: the study's folder, for the results.
        prepare: makes tasks and strategies; a new process must be able to import it.
        jobs: trials at a time.
        on_result: called with each result.
        tell: called with a line for the user when a trial is run once more.
    """
    with TrialPool(prepare, jobs, tell) as pool:
        runner = _Runner(folder, pool, on_result)
        steps = affordable_steps(study, runner.run(study.pace_trials()))
        chosen = best_settings(study, runner.run(study.tune_trials(steps)))
        runner.run(study.test_trials(steps, chosen))


class _Runner:
    """Runs trials that have no result yet."""

    def __init__(self, folder: StudyFolder, pool: TrialPool, on_result: OnResult) -> None:
        self._folder, self._pool, self._on_result = folder, pool, on_result
        self._known = {result.key: result for result in folder.found().results}

    def run(self, trials: Sequence[Trial]) -> list[Result]:
        """Runs trials that have no result yet; returns the results of all, in order."""
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
        study: the study.
        tuned: results of `tune_trials`; some may be missing.

    Returns:
        (arm, condition) -> number of the setting; the first one if there are no results.
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
    """Mean error of each setting; infinite if a trial failed.

    Returns:
        Setting -> mean error.
    """
    means = {}
    for setting in sorted({result.setting for result in tuned}):
        errors = [r.error for r in tuned if r.setting == setting]
        known = [error for error in errors if error is not None]
        means[setting] = sum(known) / len(known) if len(known) == len(errors) else math.inf
    return means
