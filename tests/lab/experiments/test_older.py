"""Runs and studies that were saved by earlier versions."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grawa.lab.cli import names
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.curve import Curve
from grawa.lab.experiments.older import (
    current_method,
    current_options,
    current_text,
    is_saved,
    saved_text,
    with_saved_defaults,
)
from grawa.lab.experiments.study_toml import as_toml, from_toml
from grawa.lab.experiments.trial import Result
from grawa.lab.experiments.usual_momentum import USUAL_MOMENTUM
from grawa.strategies.center import OuterNesterov
from tests.lab.experiments.studies import arm, result, study

METHOD = "mgrawa:score=probe"

USUAL: dict[str, Any] = {
    "norms": "training", "losses": "training", "weights_from": 1, "probe_size": 64,
}  # fmt: skip

SAVED: list[tuple[dict[str, Any], str, str | None]] = [
    ({"strategy": "lgrawa"}, "lgrawa", "training"),
    ({"strategy": "uniform", "probe_size": 32}, "uniform", None),
    ({"strategy": "mgrawa", "norms": "probe"}, "mgrawa", "probe"),
    ({"strategy": "mgrawa", "norms": "probe", "probe_size": 9}, "mgrawa", "probe:size=9"),
    ({"strategy": "mgrawa", "norms": "rms:decay=0.9"}, "mgrawa", "rms:decay=0.9"),
    ({"strategy": "lsgd", "losses": "probe"}, "lsgd", "probe-loss"),
    (
        {"strategy": "mgrawa", "norms": "norm-times-loss", "losses": "probe", "probe_size": 9},
        "mgrawa",
        "norm-times-probe-loss:size=9",
    ),
    (
        {"strategy": "lgrawa:pull=1", "norms": "probe-times-loss", "weights_from": 6},
        "lgrawa:pull=1",
        "probe-times-loss:from=6",
    ),
    ({"strategy": "inverse_loss", "weights_from": 3}, "inverse_loss", "loss:from=3"),
    ({"strategy": "lgrawa:norms.decay=0.95"}, "lgrawa:score.decay=0.95", "training:decay=0.95"),
    ({"strategy": "lsgd:loss.window=8"}, "lsgd:score.window=8", None),
    ({"strategy": "diloco"}, "diloco:outer.momentum=0.9", None),
    ({"strategy": "diloco:outer.lr=1"}, "diloco:outer.momentum=0.9:outer.lr=1", None),
    ({"strategy": "diloco:outer.momentum=0.5"}, "diloco:outer.momentum=0.5", None),
    ({"strategy": "lgrawa_nesterov"}, "lgrawa_nesterov:outer.momentum=0.9", "training"),
    (
        {"strategy": "mgrawa:norms.decay=0.5", "weights_from": 3},
        "mgrawa:score.decay=0.5",
        "training:decay=0.5:from=3",
    ),
]


@pytest.mark.parametrize(("changes", "strategy", "score"), SAVED, ids=str)
def test_a_saved_run_is_read_as_it_was_meant(
    changes: dict[str, Any], strategy: str, score: str | None
) -> None:
    table = {"task": "digits", **USUAL, **changes}
    expected = TrainConfig(task="digits", strategy=strategy, score=score)
    assert TrainConfig.from_toml(with_saved_defaults(table), Path("config.toml")) == expected


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("mgrawa:norms=probe:pull=1", "mgrawa:score=probe:pull=1"),
        (
            "mgrawa:norms=probe-times-loss:weights_from=6:outer.lr=1",
            "mgrawa:score=probe-times-loss:score.from=6:outer.lr=1",
        ),
        ("inverse_loss:losses=probe:power=2", "inverse_loss:score=probe-loss:power=2"),
        ("inverse_loss:weights_from=6", "inverse_loss:score=loss:score.from=6"),
        ("mgrawa:pull=1", "mgrawa:pull=1"),
        ("digits:model=cnn", "digits:model=cnn"),
        ("uniform", "uniform"),
    ],
)
def test_a_method_is_written_as_it_is_now(old: str, new: str) -> None:
    assert current_method(old) == new
    assert current_method(new) == new


def test_a_command_is_written_as_it_is_now() -> None:
    old = "grawa compare digits:model=cnn --strategies mgrawa,mgrawa:norms=rms,lsgd --lr 0.1"
    assert current_text(old) == old.replace("norms=rms", "score=rms")


def test_what_an_arm_changes_is_read_beside_what_all_have() -> None:
    base = {"strategy": "lgrawa", **USUAL, "probe_size": 9}
    assert current_options({"lr": 0.1, "norms": "probe"}, base)["score"] == "probe:size=9"
    assert "score" not in current_options({"lr": 0.1, "strategy": "uniform"}, base)


def test_a_saved_study_says_with_a_flag_whether_steps_are_stacked() -> None:
    asked = study(arms=(arm("mgrawa", stack_workers="on"), arm("uniform")), baseline="uniform")
    asked = replace(asked, base=replace(asked.base, stack_workers="off"))
    table = as_toml(asked)
    table["base"]["stack_workers"] = False
    table["arms"][0]["settings"][0]["stack_workers"] = True
    assert from_toml(table, Path("study.toml")) == asked


def test_a_saved_study_and_its_results_are_read_as_they_were_meant() -> None:
    asked = study(arms=(arm("mgrawa", score="probe"), arm("uniform")), baseline="uniform")
    probed = replace(asked.arms[0], name=METHOD, method=METHOD)
    asked = replace(asked, arms=(probed, asked.arms[1]))
    table = as_toml(asked)
    table["base"] |= USUAL
    saved = table["arms"][0]
    saved["name"] = saved["method"] = "mgrawa:norms=probe"
    saved["settings"] = [
        {**{k: v for k, v in setting.items() if k != "score"}, "norms": "probe"}
        for setting in saved["settings"]
    ]
    assert from_toml(table, Path("study.toml")) == asked
    line = result("mgrawa:norms=probe", [0.1]).as_json()
    line["config"] = {"strategy": "mgrawa", **USUAL, "norms": "probe"}
    read = Result.from_json(line)
    assert (read.arm, read.config) == (
        METHOD,
        {"strategy": "mgrawa", "score": "probe"},
    )
    assert METHOD in read.key
    assert isinstance(read.curve, Curve)


def test_an_older_study_by_norms_is_one_of_training_norms() -> None:
    """Its methods, their settings and its results name the score that they had."""
    alias = replace(arm("lgrawa"), name="best", method="best", alias_of="lgrawa:pull=1")
    arms = (arm("mgrawa", settings=2), alias, arm("mgrawa:power=2", score="rms"), arm("uniform"))
    asked = study(arms=arms, baseline="mgrawa")
    read = from_toml({**as_toml(asked), "schema": 2}, Path("study.toml"))
    assert from_toml(as_toml(asked), Path("study.toml")) == asked
    settings = tuple({**each, "score": "training"} for each in arms[0].settings)
    name = "mgrawa:score=training"
    assert read.arms[0] == replace(arms[0], name=name, method=name, settings=settings)
    assert read.baseline == name
    assert (read.arms[1].name, read.arms[1].alias_of) == ("best", "lgrawa:score=training:pull=1")
    assert read.arms[1].settings[0]["score"] == "training"
    assert read.arms[2:] == asked.arms[2:]
    trials = read.test_trials(
        {one.name: 32 for one in read.arms},
        {(one.name, where.name): 0 for one in read.arms for where in read.conditions},
    )
    for own, older in zip(asked.arms, read.arms, strict=True):
        line = result(own.name, [0.1]).as_json()
        line["config"] = dict(own.settings[0])
        found = Result.from_json(line)
        assert found.arm == older.name
        assert found.key in {trial.key for trial in trials}
        assert found.config == older.settings[0]


def test_an_older_ablation_by_norms_is_one_of_training_norms() -> None:
    arms = tuple(
        replace(
            arm("mgrawa", sync_every=int(value)), name=f"mgrawa sync_every={value}", value=value
        )
        for value in ("4", "8")
    )
    asked = study(kind="ablate", knob="sync_every", arms=arms, baseline="4")
    read = from_toml({**as_toml(asked), "schema": 2}, Path("study.toml"))
    assert [one.name for one in read.arms] == [
        "mgrawa:score=training sync_every=4",
        "mgrawa:score=training sync_every=8",
    ]
    assert read.baseline == "4"
    assert saved_text(arms[0].name, {"strategy": "mgrawa"}) == read.arms[0].name


def test_an_older_study_by_an_outer_optimizer_has_the_momentum_of_then() -> None:
    """What it names itself, and what a study of today leaves to the default, is left as it is."""
    arms = (arm("diloco"), arm("diloco:outer.momentum=0.5"), arm("lgrawa_nesterov"), arm("slowmo"))
    asked = study(arms=arms, baseline="diloco")
    read = from_toml({**as_toml(asked), "schema": 2}, Path("study.toml"))
    assert from_toml(as_toml(asked), Path("study.toml")) == asked
    assert read.baseline == read.arms[0].name == "diloco:outer.momentum=0.9"
    assert read.arms[0].settings[0]["strategy"] == "diloco:outer.momentum=0.9"
    assert read.arms[1] == arms[1]
    assert read.arms[2].name == "lgrawa_nesterov:score=training:outer.momentum=0.9"
    assert read.arms[3] == arms[3]
    line = result("diloco", [0.1]).as_json()
    assert Result.from_json(line).as_json() == line
    line["config"]["strategy"] = "diloco"
    assert Result.from_json(line).arm == "diloco:outer.momentum=0.9"
    assert "/diloco:outer.momentum=0.9/" in Result.from_json(line).key


@pytest.mark.parametrize("name", names.STRATEGIES)
def test_a_run_is_saved_with_its_outer_momentum_by_name(name: str) -> None:
    assert str(OuterNesterov().momentum) == USUAL_MOMENTUM
    usual = getattr(names.strategy(name), "outer", None)
    saved = TrainConfig(task="digits", strategy=name).as_saved().strategy
    assert (saved == f"{name}:outer.momentum=0.3") == (usual == OuterNesterov())
    assert names.strategy(saved) == names.strategy(name)
    with_lr = f"{name}:outer.lr=1"
    if hasattr(names.strategy(name), "outer") and name != "edit":
        saved = TrainConfig(task="digits", strategy=with_lr).as_saved().strategy
        assert saved == f"{name}:outer.momentum=0.3:outer.lr=1"
        assert names.strategy(saved) == names.strategy(with_lr)


def test_a_score_that_all_runs_of_an_older_study_had_is_kept() -> None:
    asked = study(arms=(arm("mgrawa"), arm("lgrawa")), baseline="mgrawa")
    asked = replace(asked, base=replace(asked.base, score="rms"))
    assert from_toml({**as_toml(asked), "schema": 2}, Path("study.toml")) == asked


def test_files_written_by_hand_are_told_from_those_of_runs() -> None:
    config = TrainConfig(task="digits")
    assert is_saved(config.as_toml())
    assert is_saved({"task": "digits", **USUAL})
    assert not is_saved({"task": "digits", "strategy": "mgrawa", "lr": 0.1, "fault": []})
