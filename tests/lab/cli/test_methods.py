"""The methods of a comparison, as they are written and tuned."""

from itertools import pairwise
from typing import Any

import pytest

from grawa.errors import UserError
from grawa.lab.cli.grids import beyond, grid
from grawa.lab.cli.methods import METHODS, method, named


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("settings", [1, 4, 6, 12])
def test_every_method_gets_as_many_settings_all_different(name: str, settings: int) -> None:
    tried = grid(method(name), 0.1, settings)
    assert len({str(setting) for setting in tried}) == settings


def test_the_radius_of_sam_is_tuned_with_the_learning_rate() -> None:
    tried = {(s["optimizer"], s["lr"]) for s in grid(method("dp_sam"), 0.1, 8)}
    rates = (0.0354, 0.0707, 0.141, 0.283)
    assert tried == {(f"sam:rho={rho}", lr) for rho in (0.05, 0.1) for lr in rates}


@pytest.mark.parametrize(
    ("settings", "strategies", "rates"), [(1, 1, 1), (4, 1, 4), (6, 1, 6), (8, 2, 4), (16, 4, 4)]
)
def test_knobs_are_tried_where_four_learning_rates_are_left(
    settings: int, strategies: int, rates: int
) -> None:
    tried = grid(method("mgrawa"), 0.1, settings)
    assert len({s["strategy"] for s in tried}) == strategies
    assert len({s["lr"] for s in tried}) == rates


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("mgrawa:power=2:score=rms", {"strategy": "mgrawa:power=2", "score": "rms"}),
        (
            "mgrawa:score.from=6:score=probe:pull=1:score.size=32",
            {"strategy": "mgrawa:pull=1", "score": "probe:from=6:size=32"},
        ),
        ("mgrawa:score.decay=0.5", {"strategy": "mgrawa:score.decay=0.5"}),
        ("uniform:optimizer=sam:guard=false", {"optimizer": "sam", "guard": False}),
        ("dp_sam:optimizer=adamw", {"strategy": "data_parallel", "optimizer": "adamw"}),
        ("lgrawa:sync_every=8", {"sync_every": 8}),
        ("random:seed=3", {"strategy": "random:seed=3"}),  # its own, though a run has one too
    ],
)
def test_options_are_the_strategys_or_those_of_a_run(text: str, setting: dict[str, Any]) -> None:
    (made,) = grid(method(text), 0.1, 1)
    assert {name: made[name] for name in setting} == setting


def test_what_is_said_is_not_tuned() -> None:
    tried = {s["strategy"] for s in grid(method("mgrawa:pull=0.3"), 0.1, 12)}
    assert tried == {"mgrawa:pull=0.3:prox=0.01", "mgrawa:pull=0.3:prox=0.1"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sgd", "there is no method 'sgd'"),
        ("mgrawa:lr=0.1", "lr can't be an option of a method"),
        ("mgrawa:steps=3", "steps can't be an option of a method"),
        ("mgrawa:elasticity=0.1", "has no option 'elasticity'"),
        ("mgrawa:pull", "write options of a strategy as"),
        ("mgrawa:score", "write options as name=value"),
        ("mgrawa:norms=rms", "has no option 'norms'"),
        ("mgrawa:score.from=6", "has no option 'from'"),
    ],
)
def test_what_a_method_has_not_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        method(text)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("settings", [2, 4, 12, 16])
def test_every_grid_may_grow_by_as_many_learning_rates_on_each_side(
    name: str, settings: int
) -> None:
    inside, outside = (
        grid(method(name), 0.1, settings),
        beyond(method(name), 0.1, settings, 3),
    )
    lrs = sorted({s["lr"] for s in (*inside, *outside)})
    assert len(lrs) == len({s["lr"] for s in inside}) + 2 * 3
    steps = [after / before for before, after in pairwise(lrs)]
    assert steps == pytest.approx([steps[0]] * len(steps), rel=0.02)  # rates have three digits
    others = [{**setting, "lr": 0.0} for setting in inside]
    assert all({**setting, "lr": 0.0} in others for setting in outside)


def test_a_single_setting_does_not_grow_nor_a_grid_to_what_no_run_may_have() -> None:
    assert beyond(method("mgrawa"), 0.1, 1, 3) == []
    lrs = [setting["lr"] for setting in beyond(method("local_sgd"), 1e5, 2, 2)]
    assert lrs == [4420.0, 552.0]  # eight times 283,000 is above the limit


def test_a_method_may_have_a_name_of_its_own() -> None:
    found = named(["best=mgrawa:score=probe:pull=1", "local_sgd", "mine.py:Median:power=2"])
    assert found == {
        "best": "mgrawa:score=probe:pull=1",
        "local_sgd": "local_sgd",
        "mine.py:Median:power=2": "mine.py:Median:power=2",
    }


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["lgrawa=mgrawa:pull=1"], "'lgrawa' is the name of a method"),
        (["LocalSGD=mgrawa"], "'LocalSGD' is the name of a method"),
        (["a=mgrawa", "a=lgrawa"], "the name 'a' is given to two methods"),
        (["a/b=mgrawa"], "as name=method"),
        (["=mgrawa"], "as name=method"),
    ],
)
def test_a_name_that_would_mislead_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        named(texts)
