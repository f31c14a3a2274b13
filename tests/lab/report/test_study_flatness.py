"""Flatness at the end of a study, from made-up measurements."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
from matplotlib.figure import Figure

from grawa.lab.experiments.flatness_config import FlatnessConfig
from grawa.lab.experiments.study import Condition, Study
from grawa.lab.experiments.trial import Result
from grawa.lab.report.flat_tables import correlation_table, flat_tables
from grawa.lab.report.flats import flats_of
from grawa.lab.report.study_flatness import flat_picture, flat_verdicts
from grawa.lab.report.tables import Unit
from tests.lab.experiments.studies import result, study

UNIT = Unit("test error")


def measured(trace: float | None, gap: float = 0.02) -> dict[str, Any]:
    """What a trial would have measured."""
    one = {
        "train_error": 0.01,
        "gap": gap,
        "loss": 0.1,
        "gradient_norm": 0.3,
        "sharpness": {"0.05": 0.01, "0.5": 0.2},
        "eigenvalues": [{"value": 2.0, "standard_error": 0.1}],
        "trace": {"value": trace, "standard_error": 0.1},
        "trace_over_loss": {"value": trace, "standard_error": 0.1},
    }
    return {"models": {"consensus": one}, "valley": None}


def asked(**config: Any) -> Study:
    clean = (Condition(name="clean", options={}),)
    return study(conditions=clean, flatness=FlatnessConfig(**config))


def runs(arm: str, traces: Sequence[float | None], gaps: Sequence[float]) -> list[Result]:
    return [
        result(arm, [0.1], seed=seed, flatness=measured(trace, gap))
        for seed, (trace, gap) in enumerate(zip(traces, gaps, strict=True))
    ]


FLATTER = [
    *runs("mgrawa", [1.0, 2.0, 4.0, 3.0], [0.01, 0.02, 0.04, 0.03]),
    *runs("uniform", [3.1, 5.9, 12.2, 8.8], [0.05, 0.06, 0.08, 0.07]),
]


def test_conditions_without_measurements_have_no_place_in_tables_and_pictures() -> None:
    both = (*asked().conditions, Condition(name="lr-x6:3", options={"fault": ("lr-x6:3",)}))
    two = study(conditions=both, flatness=FlatnessConfig(), flat_conditions=("clean",))
    unmeasured = [result(arm, [0.2], condition="lr-x6:3") for arm in ("mgrawa", "uniform")]
    flats = flats_of(two, [*FLATTER, *unmeasured])
    assert [table.title for table in flat_tables(two, flats, UNIT)] == ["clean: flatness"]
    assert {row[1].text for row in correlation_table(two, flats).rows} == {"clean"}
    figure = Figure()
    flat_picture(two, flats).draw(figure)
    assert [panel.get_title() for panel in figure.axes] == ["clean"]


def test_ratios_are_taken_seed_by_seed() -> None:
    base, other = flats_of(asked(), FLATTER)
    assert base.ratio is None
    assert other.ratio is not None
    each = [3.1, 5.9 / 2, 12.2 / 4, 8.8 / 3]
    assert math.exp(other.ratio.mean) == pytest.approx(math.prod(each) ** 0.25)
    assert other.ratio.number == 4


def test_a_clear_ratio_is_a_verdict_with_its_figures() -> None:
    (verdicts,) = flat_verdicts(asked(), flats_of(asked(), FLATTER)).values()
    (verdict,) = verdicts
    assert (verdict.claim, verdict.outcome) == (
        "mgrawa ends flatter than uniform, clean",
        "supported",
    )
    assert verdict.why.startswith("Its trace over the baseline's is 3.01, 95% CI 2.88 to 3.14")


def test_a_measure_that_is_not_positive_has_no_ratio() -> None:
    """A saddle has no flatness to compare by its trace."""
    some = [*runs("mgrawa", [1.0], [0.1]), *runs("uniform", [-1.0], [0.1])]
    flats = flats_of(asked(), some)
    assert [flat.ratio for flat in flats] == [None, None]
    assert flat_verdicts(asked(), flats) == {"Ends flatter, by the trace": []}


def test_what_could_not_be_measured_has_no_part() -> None:
    failed = result("uniform", [0.1], seed=0, flatness={"failure": "the loss is inf"})
    flats = flats_of(asked(), [*runs("mgrawa", [1.0], [0.1]), failed])
    assert [flat.arm for flat in flats] == ["mgrawa"]


def test_the_table_has_all_measures_and_the_baseline_no_ratio() -> None:
    study_ = asked()
    (table,) = flat_tables(study_, flats_of(study_, FLATTER), UNIT)
    headings = [heading for heading, _ in table.columns]
    assert headings[:6] == ["method", "gap (%)", "loss", "trace", "trace / loss", "eigenvalue"]
    assert {len(row) for row in table.rows} == {len(headings)}
    first, second = table.rows
    assert [cell.text for cell in first[-3:]] == ["-", "-", "-"]
    assert [cell.text for cell in second[:3]] == ["uniform", "6.50 ± 0.65", "0.1 ± 0"]
    assert second[-3].text == "3.01"


def test_the_correlation_is_that_of_runs() -> None:
    rows = correlation_table(asked(), flats_of(asked(), FLATTER)).rows
    by_name = {row[0].text: row for row in rows}
    assert by_name["trace"][2].text == "+0.93"  # of 28 pairs one disagrees: 4.0 and 3.1
    assert by_name["loss"][2].text == "-"  # all the same
    assert by_name["inverse mean valley"][-1].text == "0"


def test_without_curvature_the_rise_of_the_loss_is_claimed_of() -> None:
    study_ = asked(eigenvalues=0)
    flats = flats_of(study_, FLATTER)
    assert list(flat_verdicts(study_, flats)) == ["Ends flatter, by the rise at 0.5"]


def test_a_study_without_flatness_has_none() -> None:
    assert flats_of(study(), FLATTER) == []
    assert flat_verdicts(study(), []) == {}


def test_the_picture_is_drawn() -> None:
    picture = flat_picture(asked(), flats_of(asked(), FLATTER))
    assert "trace of the consensus" in picture.svg()
