"""Random populations together, from made-up results."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from grawa.lab.experiments.options import condition
from grawa.lab.experiments.study import Condition, Study
from grawa.lab.experiments.trial import Result
from grawa.lab.experiments.tuning import due_settings
from grawa.lab.report.outcomes import outcomes_of
from grawa.lab.report.pooled import (
    pooled_of,
    pooled_picture,
    pooled_table,
    pooled_verdicts,
)
from grawa.lab.report.tables import Unit
from tests.lab.experiments.studies import result, study

UNIT = Unit("test error")
NAMES = ("clean", "mixed:0", "mixed:1", "mixed:2")


def asked(names: Sequence[str] = NAMES) -> Study:
    return study(conditions=tuple(Condition(name=n, options=condition(n)) for n in names))


def runs(arm: str, errors: Mapping[str, Sequence[float]]) -> list[Result]:
    return [
        result(arm, [error], seed=seed, condition=name)
        for name, each in errors.items()
        for seed, error in enumerate(each)
    ]


MGRAWA = {"clean": [0.5], "mixed:0": [0.1, 0.2], "mixed:1": [0.1], "mixed:2": [0.3]}
UNIFORM = {"clean": [0.1], "mixed:0": [0.12, 0.22], "mixed:1": [0.13], "mixed:2": [0.34]}
RESULTS = [*runs("mgrawa", MGRAWA), *runs("uniform", UNIFORM)]


def test_populations_have_seeds_of_their_own() -> None:
    asked_ = asked()
    assert [asked_.seeds_under(c) for c in asked_.conditions] == [[0, 1], [0, 1], [2, 3], [4, 5]]
    chosen = {(a.name, c.name): 0 for a in asked_.arms for c in asked_.conditions}
    trials = asked_.test_trials({"mgrawa": 96, "uniform": 96}, chosen)
    for name, seeds in zip(NAMES, ([0, 1], [0, 1], [2, 3], [4, 5]), strict=True):
        for arm in ("mgrawa", "uniform"):
            own = [t.seed for t in trials if (t.condition, t.arm) == (name, arm)]
            assert own == seeds  # the same for both methods


def test_settings_are_chosen_on_seeds_of_their_own_too() -> None:
    tuned = replace(asked(), tune_seeds=(1000,))
    trials = tuned.tune_trials({"mgrawa": 96, "uniform": 96}, due_settings(tuned, []))
    for name, seed in zip(NAMES, (1000, 1000, 1001, 1002), strict=True):
        assert {t.seed for t in trials if t.condition == name} == {seed}
    assert len(trials) + len(tuned.arms) * 8 == tuned.count()


def test_a_population_is_one_observation() -> None:
    base, other = pooled_of(asked(), outcomes_of(asked(), RESULTS))
    assert base.difference is None
    assert base.end.mean == pytest.approx((0.15 + 0.1 + 0.3) / 3)
    assert other.difference is not None
    assert list(other.differences.values()) == pytest.approx([0.02, 0.03, 0.04])
    assert other.difference.mean == pytest.approx(0.03)
    assert other.difference.number == 3
    # The standard error over three populations is 0.01 / sqrt 3, and t has two degrees of freedom.
    half = 4.302653 * 0.01 / math.sqrt(3)
    assert other.difference.high - other.difference.mean == pytest.approx(half)
    assert other.corrected == other.difference.p  # one comparison only: clean has no part


def test_a_few_populations_are_not_pooled() -> None:
    few = asked(NAMES[:3])
    assert pooled_of(few, outcomes_of(few, RESULTS)) == []
    assert pooled_verdicts(few, [], UNIT) == {}


def test_table_verdict_and_picture_say_it() -> None:
    asked_ = asked()
    pooled = pooled_of(asked_, outcomes_of(asked_, RESULTS))
    first, second = pooled_table(asked_, pooled, UNIT).rows
    assert [cell.text for cell in first[:4]] == ["mgrawa", "18.33 ± 6.01", "0", "-"]
    assert [cell.text for cell in second[3:6]] == ["+3.00", "+0.52 to +5.48", "3 of 3"]
    ((verdict,),) = pooled_verdicts(asked_, pooled, UNIT).values()
    assert verdict.outcome == "supported"
    assert "3 populations of 2 seeds each, uniform higher in 3" in verdict.why
    assert "minus mgrawa" in pooled_picture(asked_, pooled, UNIT).svg()
