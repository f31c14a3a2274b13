"""Runs the trials of a study, and continues an interrupted study where it stopped."""

from collections.abc import Callable, Sequence

from grawa.lab.experiments.pace import affordable_steps
from grawa.lab.experiments.pool import TrialPool
from grawa.lab.experiments.study import Study, Trial
from grawa.lab.experiments.study_folder import StudyFolder
from grawa.lab.experiments.trial import Prepare, Result
from grawa.lab.experiments.tuning import best_settings, beyond_edges, count, untried

OnResult = Callable[[Result, bool], object]
"""Called with each result, and whether it was read from the folder."""


def run_study(
    study: Study,
    folder: StudyFolder,
    prepare: Prepare,
    jobs: int,
    on_result: OnResult,
    tell: Callable[[str], object] = lambda _: None,
    on_count: Callable[[int], object] = lambda _: None,
) -> None:
    """Runs every trial that has no result yet.

    First the cost of a step of each arm is measured on the axis, to find how many steps each can
    afford; then the settings of all grids run on the validation seeds, and those beyond a grid as
    long as its best one is at the edge; then the best ones on the test seeds.

    Args:
        study: the study.
        folder: the study's folder, for the results.
        prepare: makes tasks and strategies; a new process must be able to import it.
        jobs: trials at a time.
        on_result: called with each result.
        tell: called with a line for the user when a trial is run once more, and when a grid grows.
        on_count: called with the number of all trials, each time that more are known.
    """
    with TrialPool(prepare, jobs, tell) as pool:
        runner = _Runner(folder, pool, on_result)
        steps = affordable_steps(study, runner.run(study.pace_trials()))
        tuned: list[Result] = []
        while trials := untried(study, steps, tuned):
            on_count(count(study, tuned))
            for line in beyond_edges(study, runner.left(trials)):
                tell(line)
            tuned += runner.run(trials)
        chosen = best_settings(study, tuned)
        runner.run(study.test_trials(steps, chosen))


class _Runner:
    """Runs trials that have no result yet."""

    def __init__(self, folder: StudyFolder, pool: TrialPool, on_result: OnResult) -> None:
        self._folder, self._pool, self._on_result = folder, pool, on_result
        self._known = {result.key: result for result in folder.found().results}

    def left(self, trials: Sequence[Trial]) -> list[Trial]:
        """The trials that have no result yet."""
        return [trial for trial in trials if trial.key not in self._known]

    def run(self, trials: Sequence[Trial]) -> list[Result]:
        """Runs trials that have no result yet; returns the results of all, in order."""
        found = {t.key: self._known[t.key] for t in trials if t.key in self._known}
        for result in found.values():
            self._on_result(result, True)
        for result in self._pool.run(self.left(trials)):
            self._folder.append(result)
            self._on_result(result, False)
            found[result.key] = result
        return [found[trial.key] for trial in trials]
