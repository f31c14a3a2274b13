"""Which settings tuning tries, and which one it chooses.

Every arm begins with a grid of the same number of settings. Where its best one has the smallest or
largest learning rate of those that were tried, the next one beyond is tried too, as often as that
is so and a learning rate is left. All of this follows from the results, so that a study that goes
on after an interruption tries the same settings.
"""

import math
from collections.abc import Mapping, Sequence

from grawa.lab.experiments.options import Changes
from grawa.lab.experiments.study import Arm, Study, Trial
from grawa.lab.experiments.trial import Result

Due = Mapping[tuple[str, str], Sequence[int]]
"""(arm, condition of tuning) -> numbers of the settings to try there."""


def due_settings(study: Study, tuned: Sequence[Result]) -> Due:
    """The settings to try, as far as these results tell.

    Args:
        study: the study.
        tuned: results of tuning, in any order; some may be missing.

    Returns:
        The settings of each arm's grid, and the ones beyond it that follow from the results.
    """
    names = [condition.name for condition in study.tuned_under]
    choices = [names] if study.tune_conditions else [[name] for name in names]
    due = {}
    for arm in study.arms:
        for conditions in choices:
            own = [r for r in tuned if r.arm == arm.name and r.condition in conditions]
            settings = _grown(arm, own, len(conditions) * len(study.tune_seeds))
            due.update({(arm.name, name): settings for name in conditions})
    return due


def _grown(arm: Arm, tuned: Sequence[Result], runs: int) -> list[int]:
    """The settings of one choice; `runs` is the number of runs of each of them."""
    settings = list(range(len(arm.settings)))
    while runs:
        own = [result for result in tuned if result.setting in settings]
        if len(own) < runs * len(settings):
            break
        more = _next_beyond(arm.possible, mean_errors(own))
        if more is None:
            break
        settings.append(more)
    return settings


def _next_beyond(possible: Sequence[Changes], means: Mapping[int, float]) -> int | None:
    """The setting next to the best one on the side where none was tried; `None` without one."""
    best = best_of(means)
    line = _differing_in_lr(possible, best)
    if math.isinf(means[best]):  # all failed: the smallest learning rate came closest
        best = next(setting for setting in line if setting in means)
    place = line.index(best)
    smaller, larger = line[:place], line[place + 1 :]
    if smaller and not means.keys() & smaller:
        return smaller[-1]
    if larger and not means.keys() & larger:
        return larger[0]
    return None


def _differing_in_lr(possible: Sequence[Changes], setting: int) -> list[int]:
    """The settings that have the same options but for the learning rate, by their rates."""
    lrs: dict[float, int] = {}
    for number, each in enumerate(possible):
        if {**each, "lr": 0.0} == {**possible[setting], "lr": 0.0}:
            lrs.setdefault(float(each["lr"]), number)
    lrs[float(possible[setting]["lr"])] = setting
    return [lrs[lr] for lr in sorted(lrs)]


def at_edge(study: Study, result: Result) -> bool:
    """Whether a run's learning rate is the last on its side that its study may try."""
    possible = study.arm(result.arm).possible
    line = _differing_in_lr(possible, result.setting)
    return len(line) > 1 and result.setting in {line[0], line[-1]}


def untried(study: Study, steps: Mapping[str, int], tuned: Sequence[Result]) -> Sequence[Trial]:
    """The trials of tuning that are due after these results.

    Args:
        study: the study.
        steps: arm -> local steps of each worker.
        tuned: results of tuning.

    Returns:
        The trials; none once every arm's choice is made.
    """
    known = {result.key for result in tuned}
    trials = study.tune_trials(steps, due_settings(study, tuned))
    return [trial for trial in trials if trial.key not in known]


def beyond_edges(study: Study, trials: Sequence[Trial]) -> list[str]:
    """What is tried beyond the grids, a line for each arm and choice."""
    lines = []
    for trial in trials:
        if trial.setting >= len(study.arm(trial.arm).settings):
            where = "" if study.tune_conditions else f" ({trial.condition})"
            lines.append(
                f"{trial.arm}{where}: the best learning rate is at the edge of those tried; "
                f"trying {trial.config.lr:g} too"
            )
    return list(dict.fromkeys(lines))


def count(study: Study, results: Sequence[Result]) -> int:
    """The number of trials of a study, as far as these results tell."""
    due = due_settings(study, [result for result in results if result.role == "tune"])
    more = sum(len(due[place]) - len(study.arm(place[0]).settings) for place in due)
    return study.count() + more * len(study.tune_seeds)


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
            chosen[arm.name, condition.name] = best_of(mean_errors(own))
    return chosen


def best_of(means: Mapping[int, float]) -> int:
    """The setting with the smallest mean error; the first one of equal ones, or of none."""
    return min(means, key=lambda setting: (means[setting], setting), default=0)


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
