"""Which trials a study takes, and how it is written down."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from grawa.errors import UserError
from grawa.lab.experiments.flatness_config import FlatnessConfig
from grawa.lab.experiments.study import Condition
from grawa.lab.experiments.study_toml import as_toml, from_toml
from grawa.lab.experiments.tuning import best_settings, due_settings, mean_errors
from tests.lab.experiments.studies import arm, result, study

TUNED = study(arms=(arm("mgrawa", settings=3), arm("uniform", settings=3)), tune_seeds=(1000, 1001))
GRIDS = due_settings(TUNED, [])
STEPS = {"mgrawa": 96, "uniform": 64}
CHOSEN = {(a, c): 0 for a in ("mgrawa", "uniform") for c in ("clean", "lr-x6:3")}


def test_a_study_comes_back_from_its_file() -> None:
    text = tomli_w.dumps(as_toml(TUNED))
    assert from_toml(tomllib.loads(text), Path("study.toml")) == TUNED


def test_flatness_is_measured_of_what_is_compared_alone() -> None:
    asked = study(flatness=FlatnessConfig(samples=9), tune_seeds=(1000,))
    text = tomli_w.dumps(as_toml(asked))
    assert from_toml(tomllib.loads(text), Path("study.toml")) == asked
    assert {trial.flatness for trial in asked.test_trials(STEPS, CHOSEN)} == {asked.flatness}
    others = asked.tune_trials(STEPS, due_settings(asked, [])) + study(axis="time").pace_trials()
    assert {trial.flatness for trial in others} == {None}


def test_flatness_may_be_measured_under_some_conditions_alone() -> None:
    asked = study(flatness=FlatnessConfig(), flat_conditions=("clean",))
    assert from_toml(tomllib.loads(tomli_w.dumps(as_toml(asked))), Path("study.toml")) == asked
    trials = asked.test_trials(STEPS, CHOSEN)
    assert {t.condition for t in trials if t.flatness} == {"clean"} == set(asked.measured)
    assert {t.condition for t in trials if not t.flatness} == {"lr-x6:3"}


@pytest.mark.parametrize(
    ("change", "message"),
    [({"schema": 1}, "has schema 1"), ({"arms": [{}]}, "complete"), ({"base": {}}, "has no task")],
)
def test_a_broken_file_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_toml({**as_toml(TUNED), **change}, Path("study.toml"))


def test_tuning_and_tests_have_no_seed_in_common() -> None:
    tune = {trial.config.seed for trial in TUNED.tune_trials(STEPS, GRIDS)}
    test = {trial.config.seed for trial in TUNED.test_trials(STEPS, CHOSEN)}
    assert (tune, test) == ({1000, 1001}, {0, 1})


def test_every_method_is_tried_as_often() -> None:
    trials = TUNED.tune_trials(STEPS, GRIDS)
    for name in ("mgrawa", "uniform"):
        assert len([t for t in trials if t.arm == name]) == 2 * 2 * 3  # seeds, conditions, settings
    assert len({trial.key for trial in trials}) == len(trials)


def test_the_number_of_trials_is_known_before() -> None:
    by_time = study(
        axis="time", tune_seeds=(1000,), arms=(arm("mgrawa", settings=2), arm("uniform"))
    )
    tune = by_time.tune_trials(STEPS, due_settings(by_time, []))
    trials = by_time.pace_trials() + tune + by_time.test_trials(STEPS, CHOSEN)
    assert by_time.count() == len(trials) == 2 + 1 * 2 * 3 + 2 * 2 * 2


def test_a_trial_is_the_base_with_setting_condition_and_seed() -> None:
    (trial,) = [
        t
        for t in TUNED.test_trials(STEPS, {**CHOSEN, ("uniform", "lr-x6:3"): 2})
        if (t.arm, t.condition, t.seed) == ("uniform", "lr-x6:3", 1)
    ]
    config = trial.config
    assert config.strategy == "uniform"
    assert config.lr == pytest.approx(0.3)
    assert (config.fault, config.seed, config.steps) == (("lr-x6:3",), 1, 64)


def test_a_run_is_measured_at_about_as_many_points_as_asked() -> None:
    asked = study(arms=(arm("mgrawa"), arm("dp", shares=True)), baseline="mgrawa", points=4)
    trials = asked.test_trials(
        {"mgrawa": 960, "dp": 960},
        {(a.name, c.name): 0 for a in asked.arms for c in asked.conditions},
    )
    by_arm = {trial.arm: trial.config for trial in trials}
    # 30 rounds, every 7th; and 120 reports, every 30th.
    assert (by_arm["mgrawa"].sync_every, by_arm["mgrawa"].evaluate_every) == (32, 7)
    assert (by_arm["dp"].sync_every, by_arm["dp"].evaluate_every) == (8, 30)


def tuned(errors: dict[tuple[int, int], float | None], condition: str = "clean") -> list[Any]:
    """Results of (setting, seed)."""
    return [
        result(
            "mgrawa",
            [error],
            role="tune",
            setting=setting,
            seed=seed,
            condition=condition,
            failure="" if error is not None else "diverged",
        )
        for (setting, seed), error in errors.items()
    ]


def test_the_setting_with_the_smallest_mean_is_chosen() -> None:
    found = tuned({(0, 1000): 0.1, (0, 1001): 0.5, (1, 1000): 0.2, (1, 1001): 0.2})
    assert mean_errors(found) == {0: pytest.approx(0.3), 1: pytest.approx(0.2)}
    assert best_settings(TUNED, found)["mgrawa", "clean"] == 1


def test_a_setting_that_fails_once_is_not_chosen() -> None:
    found = tuned({(0, 1000): 0.01, (0, 1001): None, (1, 1000): 0.8, (1, 1001): 0.8})
    assert best_settings(TUNED, found)["mgrawa", "clean"] == 1


def test_each_condition_has_its_own_choice_unless_one_is_made_for_all() -> None:
    found = tuned({(0, 1000): 0.1, (1, 1000): 0.2}) + tuned(
        {(0, 1000): 0.9, (1, 1000): 0.3}, "lr-x6:3"
    )
    own = best_settings(TUNED, found)
    assert (own["mgrawa", "clean"], own["mgrawa", "lr-x6:3"]) == (0, 1)
    pooled = study(
        arms=TUNED.arms, tune_seeds=(1000,), tune_conditions=(Condition(name="clean", options={}),)
    )
    chosen = best_settings(pooled, found)
    assert (chosen["mgrawa", "clean"], chosen["mgrawa", "lr-x6:3"]) == (1, 1)  # means 0.5, 0.25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baseline": "lsgd"}, "the baseline must be one of mgrawa, uniform, got 'lsgd'"),
        ({"seeds": ()}, "at least one seed"),
    ],
)
def test_what_is_no_study_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        study(**change)
