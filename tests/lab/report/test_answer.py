"""The sentences with which the terminal and the page of a study begin."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from grawa.lab.experiments.options import condition
from grawa.lab.experiments.study import Condition, Study
from grawa.lab.experiments.trial import Result
from grawa.lab.report.answer import answer_of
from grawa.lab.report.outcomes import outcomes_of
from grawa.lab.report.pooled import pooled_of
from grawa.lab.report.power import detectable, pairs_for
from grawa.lab.report.tables import Unit
from tests.lab.experiments.studies import arm, result, study

CLEAN = study().conditions[:1]


def answer(
    asked: Study, results: Sequence[Result], metric: str = "test error", *, complete: bool = True
) -> list[str]:
    outcomes = outcomes_of(asked, results)
    pooled = pooled_of(asked, outcomes)
    return answer_of(asked, outcomes, pooled, Unit(metric), complete=complete)


def runs(errors: Mapping[str, Sequence[float]], **place: Any) -> list[Result]:
    return [
        result(name, [0.9, error], seed=seed, **place)
        for name, each in errors.items()
        for seed, error in enumerate(each)
    ]


ARMS = tuple(arm(name) for name in ("mgrawa", "uniform", "local_sgd", "dp_sgd"))
ERRORS = {
    "mgrawa": [0.034, 0.036, 0.032, 0.034],
    "uniform": [0.035, 0.038, 0.031, 0.036],
    "local_sgd": [0.027, 0.030, 0.024, 0.027],
    "dp_sgd": [0.090, 0.093, 0.088, 0.089],
}


def test_the_answer_has_the_lowest_what_holds_and_what_could_be_told() -> None:
    asked = study(arms=ARMS, conditions=CLEAN, seeds=(0, 1, 2, 3))
    lowest, holds, tells = answer(asked, runs(ERRORS))
    assert lowest == ("Lowest test error: local_sgd 2.70%; then mgrawa 3.40%, uniform 3.50%.")
    assert holds == (
        "Compared with mgrawa, 2 of 3 differences hold after Holm's correction for 3 tests: "
        "local_sgd -0.70 points, dp_sgd +5.60 points."
    )
    # Spreads of the differences, in points: 0.129 (uniform), 0.082 (local_sgd) and 0.082.
    spread = float(np.std([-0.7, -0.6, -0.8, -0.7], ddof=1))
    smallest = detectable(spread, 4, 0.05 / 3)
    assert smallest == pytest.approx(0.255, abs=0.001)
    pairs = pairs_for(0.1, spread, 0.05 / 3)
    assert tells == (
        f"These 4 seeds can tell about 0.26 points apart; {pairs} would tell 0.1 (in 4 of 5 such "
        "studies)."
    )


def test_the_baseline_is_named_where_it_is_not_among_the_first() -> None:
    asked = study(arms=ARMS, conditions=CLEAN, seeds=(0, 1, 2, 3), baseline="dp_sgd")
    lowest, *_ = answer(asked, runs(ERRORS), complete=False)
    assert lowest == (
        "Lowest test error so far: local_sgd 2.70%; then mgrawa 3.40%, uniform 3.50%, dp_sgd 9.00%."
    )


def test_a_tie_is_no_win() -> None:
    asked = study(conditions=CLEAN, seeds=(0, 1, 2))
    near = {"mgrawa": [0.10, 0.12, 0.11], "uniform": [0.11, 0.11, 0.112]}
    _, holds, tells = answer(asked, runs(near))
    assert holds == "Compared with mgrawa, no difference holds."
    assert tells.startswith("These 3 seeds can tell about 3.3 points apart; ")


def test_too_few_seeds_are_said_to_be_too_few() -> None:
    asked = study(conditions=CLEAN)
    _, holds, tells = answer(asked, runs({"mgrawa": [0.1, 0.2], "uniform": [0.2, 0.1]}))
    assert holds == "Compared with mgrawa, no difference holds."
    assert tells.startswith("These 2 seeds are too few to tell methods apart; ")


def test_one_seed_tells_nothing() -> None:
    asked = study(conditions=CLEAN, seeds=(0,))
    lowest, holds = answer(asked, runs({"mgrawa": [0.3], "uniform": [0.2]}))
    assert lowest == "Lowest test error: uniform 20.00%; then mgrawa 30.00%."
    assert "nothing can be told from chance: it takes at least 2 seeds" in holds


def test_each_condition_has_its_lowest_and_differences_say_where() -> None:
    asked = study(seeds=(0, 1, 2, 3))
    low, high = [0.10, 0.11, 0.12, 0.10], [0.20, 0.21, 0.23, 0.20]
    results = [
        *runs({"mgrawa": low, "uniform": high}, condition="clean"),
        *runs({"mgrawa": low, "uniform": [0.1, 0.12, 0.11, 0.1]}, condition="lr-x6:3"),
    ]
    first, second, holds, _ = answer(asked, results)
    assert first.startswith("Lowest test error (clean): mgrawa 10.75%; then uniform")
    assert second.startswith("Lowest test error (lr-x6:3): mgrawa 10.75%; then uniform")
    assert "1 of 2 differences holds after" in holds
    assert holds.endswith(": uniform +10.25 points (clean).")


def test_failed_runs_are_told_with_the_error_that_they_have_no_part_in() -> None:
    asked = study(conditions=CLEAN)
    failed = result("uniform", [None], seed=1, failure="diverged")
    lowest, *_ = answer(asked, [*runs({"mgrawa": [0.3, 0.3], "uniform": [0.2]}), failed])
    assert "uniform 20.00% (1 of its runs failed)" in lowest
    all_failed = [result(name, [None], failure="diverged") for name in ("mgrawa", "uniform")]
    assert answer(asked, all_failed)[0] == "No run ended with an error."


def test_many_differences_are_counted() -> None:
    names = [f"m{i}" for i in range(9)]
    arms = tuple(arm(name) for name in ("mgrawa", *names))
    spread = [0.0, 0.001, 0.002, 0.001]
    errors = {"mgrawa": [0.1] * 4} | {name: [0.2 + s for s in spread] for name in names}
    _, holds, _ = answer(study(arms=arms, conditions=CLEAN, seeds=(0, 1, 2, 3)), runs(errors))
    assert "9 of 9 differences hold" in holds
    assert holds.endswith("m5 +10.10 points, and 3 more.")


def test_populations_are_the_observations() -> None:
    names = ("mixed:0", "mixed:1", "mixed:2")
    asked = study(conditions=tuple(Condition(name=n, options=condition(n)) for n in names))
    results = [
        each
        for n, name in enumerate(names)
        for each in runs({"mgrawa": [0.1, 0.2], "uniform": [0.2 + n / 100, 0.3]}, condition=name)
    ]
    lowest, holds, tells = answer(asked, results)
    assert lowest.startswith("Lowest test error (3 random populations): mgrawa 15.00%; then")
    assert holds == "Compared with mgrawa, 1 of 1 difference holds: uniform +10.50 points."
    assert tells.startswith("These 3 populations can tell about ")


def test_an_ablation_is_compared_with_each_methods_own() -> None:
    arms = tuple(
        replace(arm(f"{name} pull={value}"), method=name, value=value)
        for name in ("mgrawa", "uniform")
        for value in ("0.5", "1")
    )
    asked = study(kind="ablate", knob="pull", arms=arms, conditions=CLEAN, baseline="0.5")
    errors = {each.name: [0.1 + i / 100, 0.1 + i / 50] for i, each in enumerate(arms)}
    lowest, holds, _ = answer(asked, runs(errors))
    assert lowest.startswith("Lowest test error: mgrawa pull=0.5 10.00%; then mgrawa pull=1")
    assert holds.startswith("Compared with each method's own at pull=0.5, no difference holds")


def test_aliases_are_explained_and_other_metrics_have_their_unit() -> None:
    best = replace(arm("best"), alias_of="mgrawa:score=probe:pull=1")
    asked = study(arms=(best, arm("uniform")), baseline="best", conditions=CLEAN)
    results = runs({"best": [4.21, 4.25], "uniform": [4.4, 4.5]})
    lowest, _, tells, alias = answer(asked, results, "bits per byte")
    assert lowest == "Lowest bits per byte: best 4.23; then uniform 4.45."
    assert "points" not in tells
    assert alias == "best stands for mgrawa:score=probe:pull=1."
