"""How many steps fit into what the cheapest arm spends."""

from collections.abc import Sequence
from typing import Any

import pytest

from grawa.errors import UserError
from grawa.lab.cli.trials import prepare
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.pace import Pace, affordable_steps
from grawa.lab.experiments.trial import Result, run_trial
from tests.lab.experiments.studies import arm, result, study


def pace(name: str, axis: str, spent: Sequence[float], steps: Sequence[float] = ()) -> Result:
    """Two rounds of 32 steps, and half of a third."""
    columns: dict[str, Any] = {axis: spent, "steps": steps or [32, 64, 80]}
    return result(name, [0.9] * len(spent), **columns)


def test_steps_are_what_fits_into_what_the_cheapest_spends() -> None:
    # A step of mgrawa takes 2 s, after 6 s at the beginning: 96 take 198 s. One of dp takes 5 s.
    asked = study(axis="time", arms=(arm("mgrawa"), arm("dp", shares=True)))
    paces = [
        pace("mgrawa", "time", [70.0, 134.0, 166.0]),
        pace("dp", "time", [160.0, 320.0], steps=[32, 64]),
    ]
    assert affordable_steps(asked, paces) == {"mgrawa": 96, "dp": 40}


def test_the_last_round_may_come_after_fewer_steps() -> None:
    # Local steps of 1 s; 4 s of each round of lsgd: 96 s are two rounds and 20 steps with theirs.
    asked = study(axis="time", arms=(arm("mgrawa"), arm("lsgd")))
    paces = [
        pace("mgrawa", "time", [32.0, 64.0, 80.0]),
        pace("lsgd", "time", [36.0, 72.0, 92.0]),
    ]
    assert affordable_steps(asked, paces) == {"mgrawa": 96, "lsgd": 84}
    found = Pace.of(paces[1], asked.arms[1], "time")
    assert (found.step, found.round, found.cost(84)) == (1.0, 4.0, 96.0)


@pytest.mark.parametrize(("spend", "steps"), [(72.0, 64), (74.0, 64), (75.0, 65), (76.9, 65)])
def test_what_is_less_than_a_round_and_a_step_stays_over(spend: float, steps: int) -> None:
    assert Pace(every=32, step=1.0, round=4.0).steps_for(spend, most=96) == steps
    later = Pace(every=32, step=1.0, round=4.0, once=10.0)
    assert later.steps_for(spend + 10.0, most=96) == steps


def test_where_steps_cost_nothing_rounds_are_whole() -> None:
    asked = study(axis="bytes", arms=(arm("mgrawa"), arm("lsgd")))
    paces = [
        pace("mgrawa", "bytes", [320.0, 640.0, 960.0]),
        pace("lsgd", "bytes", [200.0, 400.0, 600.0]),
    ]
    # lsgd spends 600, of which two rounds of mgrawa take 640.
    assert affordable_steps(asked, paces) == {"mgrawa": 64, "lsgd": 96}


def test_nobody_makes_more_steps_than_asked_for() -> None:
    asked = study(axis="bytes", base=TrainConfig(task="digits", steps=70, clock="virtual"))
    paces = [pace(name, "bytes", [200.0, 400.0, 600.0]) for name in ("mgrawa", "uniform")]
    assert affordable_steps(asked, paces) == {"mgrawa": 70, "uniform": 70}


def test_a_run_that_makes_no_round_is_measured_at_its_end() -> None:
    # Two pace rounds of dp are 64 steps; what mgrawa sends in all pays for 4 of them.
    asked = study(axis="bytes", arms=(arm("mgrawa"), arm("dp", shares=True)))
    paces = [
        pace("mgrawa", "bytes", [320.0, 640.0, 960.0]),
        pace("dp", "bytes", [7680.0, 15360.0], steps=[32, 64]),
    ]
    assert affordable_steps(asked, paces) == {"mgrawa": 96, "dp": 4}
    assert asked.first_point(asked.arms[1], 4) == 4
    assert asked.first_point(asked.arms[1], 64) == 16  # of 8 reports every second


def test_rounds_that_grow_apart_are_told_by_what_a_step_costs_in_all() -> None:
    growing = pace("mgrawa", "time", [10.0, 30.0, 70.0], steps=[4, 16, 40])
    found = Pace.of(growing, arm("mgrawa"), "time")
    assert (found.every, found.round) == (1, 0.0)
    assert found.step == pytest.approx(40 / 24)


def test_by_steps_nothing_has_to_be_found_out() -> None:
    assert study().pace_trials() == []
    assert affordable_steps(study(), []) == {"mgrawa": 96, "uniform": 96}


@pytest.mark.parametrize("probe_size", [0, 64])
def test_a_run_spends_what_its_pace_foretells(probe_size: int) -> None:
    options: dict[str, Any] = {"score": f"probe:size={probe_size}"} if probe_size else {}
    base = TrainConfig(task="digits", steps=70, clock="virtual", sync_every=16, link="1gbit:20ms")
    asked = study(axis="time", base=base, arms=(arm("mgrawa", **options), arm("uniform")))
    first, _ = asked.pace_trials()
    found = Pace.of(run_trial(prepare, first), asked.arms[0], "time")
    chosen = {(a.name, c.name): 0 for a in asked.arms for c in asked.conditions}
    test = asked.test_trials({"mgrawa": 70, "uniform": 70}, chosen)[0]
    ended = run_trial(prepare, test).curve.time[-1]
    assert found.cost(70) == pytest.approx(ended)


def test_runs_too_short_to_meet_on_the_axis_are_refused_beforehand() -> None:
    paces = [
        pace("mgrawa", "bytes", [11.0, 22.0, 33.0]),
        pace("uniform", "bytes", [10.0, 20.0, 30.0]),
    ]
    short = study(axis="bytes", base=TrainConfig(task="digits", steps=32, clock="virtual"))
    with pytest.raises(
        UserError,
        match="mgrawa would first be measured at 11, and uniform with 32 steps would end at 10",
    ):
        affordable_steps(short, paces)
    assert affordable_steps(study(axis="bytes"), paces) == {"mgrawa": 96, "uniform": 96}


@pytest.mark.parametrize(
    ("spent", "message"),
    [
        ([0.0, 0.0, 0.0], "at equal .*, because mgrawa uses none"),
        ([1e6, 2e6, 3e6], "at equal .*, because mgrawa can't make a round"),
    ],
)
def test_no_common_axis_is_a_user_error(spent: list[float], message: str) -> None:
    paces = [pace("mgrawa", "bytes", spent), pace("uniform", "bytes", [320.0, 640.0, 960.0])]
    with pytest.raises(UserError, match=message):
        affordable_steps(study(axis="bytes"), paces)
