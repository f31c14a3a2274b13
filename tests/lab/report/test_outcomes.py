"""Errors at equal cost, and differences seed by seed."""

import math

import pytest

from grawa.errors import UserError
from grawa.lab.report.outcomes import average_until, common_amount, error_at, outcomes_of
from grawa.lab.report.study_tables import condition_table
from grawa.lab.report.tables import Unit
from grawa.lab.report.verdicts import verdicts_of
from tests.lab.experiments.studies import result, study

CLEAN = study(conditions=study().conditions[:1])


def test_errors_are_read_between_the_points() -> None:
    run = result("mgrawa", [0.5, 0.3, 0.1], time=[10.0, 20.0, 40.0])
    assert [error_at(run, "time", at) for at in (10.0, 15.0, 20.0, 30.0, 40.0)] == pytest.approx([
        0.5,
        0.4,
        0.3,
        0.2,
        0.1,
    ])
    assert error_at(run, "time", 100.0) == pytest.approx(0.1)


def test_the_average_on_the_way_is_the_area_under_the_curve() -> None:
    run = result("mgrawa", [0.5, 0.3, 0.1], time=[10.0, 20.0, 40.0])
    # From 10 to 30: 10 x 0.4 + 10 x 0.25, over 20.
    assert average_until(run, "time", 10.0, 30.0) == pytest.approx(0.325)
    assert average_until(run, "time", 30.0, 30.0) == pytest.approx(0.2)


def test_the_common_amount_is_where_the_first_one_ends() -> None:
    far = result("mgrawa", [0.5, 0.3, 0.1], bytes=[100.0, 200.0, 300.0])
    near = result("uniform", [0.4, 0.2], bytes=[50.0, 150.0])
    assert common_amount([far, near], "bytes") == pytest.approx(150.0)
    assert math.isnan(common_amount([], "bytes"))


def test_without_a_common_amount_there_is_no_comparison() -> None:
    early = result("mgrawa", [0.5, 0.4], rounds=[1.0, 2.0])
    late = result("dp_sgd", [0.1, 0.05], rounds=[32.0, 64.0])
    wanted = "at equal rounds: dp_sgd is first measured at 32, and mgrawa ends at"
    with pytest.raises(UserError, match=wanted):
        common_amount([early, late], "rounds")


def test_each_is_judged_by_its_own_end() -> None:
    # A curve that falls up to its end, as with a cosine, is not cut off for another's sake.
    trials = [
        result("mgrawa", [0.9, 0.5, 0.1], time=[10.0, 20.0, 31.0]),
        result("uniform", [0.9, 0.5, 0.2], time=[10.0, 20.0, 30.0]),
    ]
    asked = study(axis="time", conditions=CLEAN.conditions)
    base, other = outcomes_of(asked, trials)
    assert (base.errors, other.errors) == ({0: 0.1}, {0: 0.2})
    assert (base.spent("time"), other.spent("time")) == (31.0, 30.0)
    # On the way, up to 30 s, both have half the time between 0.9 and 0.5.
    assert other.averages == {0: pytest.approx((0.7 + 0.35) / 2)}
    table = condition_table(asked, asked.conditions[0], [base, other], Unit("test error"))
    assert table.title == "clean: test error (%) after 30 to 31 modelled seconds"
    ends, _ = verdicts_of(asked, [base, other], Unit("test error")).values()
    assert (
        ends[0].claim
        == "mgrawa ends at a lower error than uniform, clean, after 30 to 31 modelled seconds"
    )


def test_differences_are_paired_by_seed() -> None:
    trials = [
        *(result("mgrawa", [0.9, e], seed=s) for s, e in enumerate([0.10, 0.50, 0.30])),
        *(result("uniform", [0.9, e], seed=s) for s, e in enumerate([0.11, 0.52, 0.33])),
    ]
    base, other = outcomes_of(study(seeds=(0, 1, 2), conditions=CLEAN.conditions), trials)
    assert base.difference is None
    assert base.end is not None
    assert base.end.mean == pytest.approx(0.3)
    assert other.difference is not None
    # As in test_statistics: differences 1, 2, 3 in hundredths; one comparison, so Holm's is p.
    assert other.difference.mean == pytest.approx(0.02)
    assert other.corrected == other.difference.p == pytest.approx(1 - math.sqrt(12 / 14))


def test_a_failed_run_has_no_part_in_means_and_pairs_and_is_counted() -> None:
    trials = [
        *(result("mgrawa", [0.9, e], seed=s) for s, e in enumerate([0.1, 0.2])),
        result("uniform", [0.9, 0.3], seed=0),
        result("uniform", [0.9, None], seed=1, failure="all workers have diverged"),
    ]
    _, other = outcomes_of(CLEAN, trials)
    assert other.failed == 1
    assert other.errors == {0: 0.3}
    assert other.difference is not None
    assert other.difference.mean == pytest.approx(0.2)
    assert other.difference.number == 1


def test_a_condition_under_which_all_fail_has_no_answer() -> None:
    trials = [result(name, [None], failure="diverged") for name in ("mgrawa", "uniform")]
    verdicts = verdicts_of(CLEAN, outcomes_of(CLEAN, trials), Unit("test error"))
    for found in verdicts.values():
        assert [verdict.outcome for verdict in found] == ["no answer"]
        assert "1 of 1 runs failed" in found[0].why


def verdict_of(own: list[float], other: list[float]) -> tuple[str, str]:
    trials = [
        result(name, [0.9, e], seed=s)
        for name, errors in (("mgrawa", own), ("uniform", other))
        for s, e in enumerate(errors)
    ]
    asked = study(conditions=CLEAN.conditions, seeds=tuple(range(len(own))))
    ends, _ = verdicts_of(asked, outcomes_of(asked, trials), Unit("test error")).values()
    return ends[0].outcome, ends[0].why


def test_a_clear_difference_supports_or_contradicts() -> None:
    low, high = [0.10, 0.11, 0.12, 0.10], [0.20, 0.21, 0.23, 0.20]
    assert verdict_of(low, high)[0] == "supported"
    assert verdict_of(high, low)[0] == "contradicted"


def test_a_tie_is_not_supported_and_says_its_figures() -> None:
    outcome, why = verdict_of([0.10, 0.12, 0.11], [0.11, 0.11, 0.111])
    assert outcome == "not supported"
    # Differences 1, -1, 0.1 in hundredths: mean 0.0333.
    assert why.startswith("Difference +0.03 points, 95% CI -2.4")
    assert "3 seeds" in why


def test_one_seed_gives_no_answer() -> None:
    assert verdict_of([0.1], [0.2]) == ("no answer", "One seed alone, difference +10.00 points")
