"""One colour for each method in all pictures, and rows in the order of errors."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from grawa.lab.cli.methods import METHODS
from grawa.lab.cli.study_config import COMPARED
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.report.colours import INK, method_colour, styles_of
from grawa.lab.report.condition_pictures import curve_pictures
from grawa.lab.report.drawing import in_style
from grawa.lab.report.final_pictures import final_picture
from grawa.lab.report.outcomes import outcomes_of
from grawa.lab.report.run_pictures import run_pictures
from grawa.lab.report.tables import Unit
from tests.lab.experiments.studies import arm, result, study

UNIT = Unit("test error")
CLEAN = study().conditions[:1]


def test_methods_that_are_compared_have_colours_that_can_be_told_apart() -> None:
    colours = {name: np.array(to_rgb(method_colour(name))) for name in COMPARED}
    for one, other in combinations(COMPARED, 2):
        assert np.abs(colours[one] - colours[other]).sum() > 0.3, (one, other)


@pytest.mark.parametrize("background", ["#ffffff", "#15181b"])
def test_colours_are_seen_on_light_and_dark_pages(background: str) -> None:
    texts = [f"{name}{options}" for name in METHODS for options in ("", ":a=1", ":b=2", ":c=3")]
    for text in (text for text in texts if method_colour(text) != INK):
        assert _contrast(method_colour(text), background) > 1.5, text


def _contrast(one: str, other: str) -> float:
    """The ratio of luminances as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        linear = [c / 12.92 if c <= 0.04 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_a_methods_colour_does_not_depend_on_what_else_is_shown() -> None:
    alone = study(arms=(arm("uniform"),), baseline="uniform")
    many = study(arms=tuple(map(arm, ("lsgd", "mgrawa:pull=1", "mgrawa", "uniform"))))
    assert styles_of(alone)["uniform"].colour == styles_of(many)["uniform"].colour
    alias = study(arms=(replace(arm("best"), alias_of="mgrawa:pull=1"),), baseline="best")
    assert styles_of(alias)["best"].colour == styles_of(many)["mgrawa:pull=1"].colour


def test_variants_of_a_method_differ_in_dashes_and_marks() -> None:
    names = [f"mgrawa:pull={pull}" for pull in ("0.1", "0.2", "0.3", "0.4", "0.5")]
    styles = list(styles_of(study(arms=tuple(map(arm, names)), baseline=names[0])).values())
    for one, other in combinations(styles, 2):
        assert str(one.line["linestyle"]) != str(other.line["linestyle"])
        assert one.points["marker"] != other.points["marker"]


def drawn() -> tuple[Figure, Figure]:
    """The picture of errors and the learning curves of three methods."""
    asked = study(arms=tuple(map(arm, ("mgrawa", "uniform", "local_sgd"))), conditions=CLEAN)
    ends = {"mgrawa": 0.2, "uniform": 0.3, "local_sgd": 0.1}
    results = [result(name, [0.9, end], seed=seed) for name, end in ends.items() for seed in (0, 1)]
    outcomes = outcomes_of(asked, results)
    curves, _ = curve_pictures(asked, outcomes, UNIT)
    figures = Figure(), Figure()
    with in_style("test"):
        final_picture(asked, outcomes, UNIT).draw(figures[0])
        curves.draw(figures[1])
    return figures


def test_rows_are_in_the_order_of_errors_with_a_line_at_the_baseline() -> None:
    final, _ = drawn()
    (panel,) = final.axes
    rows = [text.get_text() for text in panel.get_yticklabels()]
    assert rows == ["local_sgd", "mgrawa", "uniform"]
    dashed = [line for line in panel.lines if line.get_linestyle() == "--"]
    assert [np.asarray(line.get_xdata()).tolist() for line in dashed] == [[20.0, 20.0]]


def test_a_method_has_its_colour_in_every_picture() -> None:
    final, curves = drawn()
    of_lines = {line.get_label(): line.get_color() for line in curves.axes[0].lines}
    assert of_lines == {name: method_colour(name) for name in ("mgrawa", "uniform", "local_sgd")}
    rows = ["local_sgd", "mgrawa", "uniform"]
    for name, bar in zip(("mgrawa", "uniform", "local_sgd"), final.axes[0].containers, strict=True):
        assert to_hex(bar[0].get_color()) == method_colour(name).lower()
        assert np.asarray(bar[0].get_ydata()).tolist() == [rows.index(name)]


def test_a_runs_curves_have_the_colour_of_its_method() -> None:
    config = TrainConfig(task="digits", strategy="easgd:elasticity=0.5")
    events = [
        {
            "kind": "round", "round": n, "step": n, "bytes_sent": 1, "elapsed": 1.0 * n,
            "round_seconds": 0.1, "losses": [0.5], "weights": None, "consensus_distance": 0.1,
        }
        for n in (1, 2)
    ]  # fmt: skip
    loss, _ = run_pictures(config, events, UNIT)
    figure = Figure()
    loss.draw(figure)
    assert figure.axes[0].lines[0].get_color() == method_colour(config.strategy)
