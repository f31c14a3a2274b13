"""Grids that grow where the best setting is at their edge, from made-up errors."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from grawa.lab.experiments.study import Arm, Condition, Study
from grawa.lab.experiments.study_toml import as_toml, from_toml
from grawa.lab.experiments.trial import Result
from grawa.lab.experiments.tuning import at_edge, best_settings, beyond_edges, count, untried
from tests.lab.experiments.studies import result, study

STEPS = {"mgrawa": 96, "uniform": 96}


def arm(name: str) -> Arm:
    """Learning rates 1, 2 and 4, and up to two more on each side."""

    def setting(lr: float) -> dict[str, Any]:
        return {"strategy": name, "lr": lr}

    inside, outside = (1.0, 2.0, 4.0), (0.5, 0.25, 8.0, 16.0)
    return Arm(
        name=name,
        method=name,
        settings=tuple(map(setting, inside)),
        beyond=tuple(map(setting, outside)),
        shares_gradients=False,
    )


def asked(**changes: Any) -> Study:
    arms = (arm("mgrawa"), arm("uniform"))
    return study(**{"arms": arms, "tune_seeds": (1000, 1001), **changes})


def tuned(asked_: Study, error: Callable[[str, str, float], float]) -> list[Result]:
    """Runs all that is due, with errors that depend on arm, condition and learning rate."""
    found: list[Result] = []
    while trials := untried(asked_, STEPS, found):
        for trial in trials:
            end = error(trial.arm, trial.condition, trial.config.lr)
            place: dict[str, Any] = {
                "seed": trial.seed, "setting": trial.setting, "condition": trial.condition,
            }  # fmt: skip
            found.append(result(trial.arm, [end], role="tune", **place))
    return found


def tried(found: list[Result], asked_: Study, arm_: str, condition: str) -> list[float]:
    settings = {r.setting for r in found if (r.arm, r.condition) == (arm_, condition)}
    return sorted(asked_.arm(arm_).possible[setting]["lr"] for setting in settings)


def test_a_best_setting_inside_ends_tuning() -> None:
    asked_ = asked()
    found = tuned(asked_, lambda _, __, lr: abs(lr - 2.0))
    assert tried(found, asked_, "mgrawa", "clean") == [1.0, 2.0, 4.0]
    assert count(asked_, found) == asked_.count()


def test_a_grid_grows_on_the_side_of_its_best_and_no_further_than_needed() -> None:
    asked_ = asked()
    # mgrawa's best is at 8 when clean, uniform's at 0.5; under the fault both are inside.
    best = {("mgrawa", "clean"): 8.0, ("uniform", "clean"): 0.5}
    found = tuned(asked_, lambda arm_, where, lr: abs(lr - best.get((arm_, where), 2.0)))
    assert tried(found, asked_, "mgrawa", "clean") == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert tried(found, asked_, "uniform", "clean") == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert tried(found, asked_, "mgrawa", "lr-x6:3") == [1.0, 2.0, 4.0]
    chosen = best_settings(asked_, found)
    best_of_mgrawa = asked_.arm("mgrawa").possible[chosen["mgrawa", "clean"]]
    assert best_of_mgrawa == {"strategy": "mgrawa", "lr": 8.0}
    assert count(asked_, found) == asked_.count() + (2 + 2) * 2  # two rates, on two seeds


def test_growth_ends_where_no_learning_rate_is_left_and_the_edge_is_told() -> None:
    asked_ = asked()
    found = tuned(asked_, lambda arm_, _, lr: -lr if arm_ == "mgrawa" else abs(lr - 2.0))
    assert tried(found, asked_, "mgrawa", "clean") == [1.0, 2.0, 4.0, 8.0, 16.0]
    chosen = best_settings(asked_, found)
    tests = [result(name, [0.1], setting=chosen[name, "clean"]) for name in ("mgrawa", "uniform")]
    assert [at_edge(asked_, each) for each in tests] == [True, False]


def test_settings_that_all_fail_are_followed_by_smaller_learning_rates() -> None:
    asked_ = asked()
    found = tuned(asked_, lambda _, __, ___: float("inf"))
    assert tried(found, asked_, "mgrawa", "clean") == [0.25, 0.5, 1.0, 2.0, 4.0]


def test_one_choice_for_all_conditions_grows_under_all_of_them() -> None:
    conditions = study().conditions
    asked_ = asked(tune_conditions=conditions)
    # The means over both are smallest at 4: 4 + 0 there, 2 + 4 at 2.
    best = {"clean": 2.0, "lr-x6:3": 8.0}
    found = tuned(asked_, lambda _, where, lr: (lr - best[where]) ** 2)
    for condition in conditions:
        assert tried(found, asked_, "mgrawa", condition.name) == [1.0, 2.0, 4.0, 8.0]
    grown = [trial for trial in untried(asked_, STEPS, found[: 12 * 2]) if trial.setting > 2]
    assert beyond_edges(asked_, grown) == [
        f"{name}: the best learning rate is at the edge of those tried; trying 8 too"
        for name in ("mgrawa", "uniform")
    ]


def test_an_interrupted_study_tries_the_same_settings() -> None:
    asked_ = asked(conditions=(Condition(name="clean", options={}),))
    whole = tuned(asked_, lambda _, __, lr: abs(lr - 8.0))
    known = {r.key: r for r in whole}
    for cut in range(len(whole)):
        found = whole[:cut]
        while trials := untried(asked_, STEPS, found):
            found = [*found, *(known[trial.key] for trial in trials)]
        assert sorted(r.key for r in found) == sorted(known)


def test_without_tuning_nothing_is_tried() -> None:
    assert untried(asked(tune_seeds=()), STEPS, []) == []


def test_a_study_of_an_earlier_version_has_grids_that_do_not_grow() -> None:
    table = as_toml(asked())
    for entry in table["arms"]:
        del entry["beyond"], entry["alias_of"]
    before = from_toml(tomllib.loads(tomli_w.dumps(table)), Path("study.toml"))
    found = tuned(before, lambda _, __, lr: -lr)
    assert tried(found, before, "mgrawa", "clean") == [1.0, 2.0, 4.0]
    with pytest.raises(KeyError):
        table["arms"][0]["beyond"]
