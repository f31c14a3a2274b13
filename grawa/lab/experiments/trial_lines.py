"""What the lines of a study's `trials.jsonl` hold."""

from collections.abc import Mapping
from dataclasses import fields
from itertools import pairwise
from typing import Any

from grawa.lab.experiments.curve import Curve
from grawa.lab.experiments.flatness_shape import trial_shape
from grawa.lab.experiments.older import saved_text
from grawa.lab.experiments.study import Study
from grawa.lab.shapes import (
    Shape,
    grid,
    listed,
    number,
    one_of,
    optional,
    same_lengths,
    table,
    text,
    whole,
)

_COLUMNS = [column.name for column in fields(Curve)]
_GAPS = {"error", "loss", "distance"}
"""Columns of a curve in which values may be missing."""


def _check_curve(curve: Mapping[str, Any]) -> str | None:
    complaint = same_lengths(curve, *_COLUMNS)
    if complaint:
        return complaint
    for name in _COLUMNS:
        if name not in _GAPS and any(b < a for a, b in pairwise(curve[name])):
            return f"curve.{name} must not fall"
    return None


_CURVE = table(
    {name: listed(optional(number()) if name in _GAPS else number(0.0)) for name in _COLUMNS},
    then=_check_curve,
)


def _check_weights(weights: Mapping[str, Any]) -> str | None:
    complaint = same_lengths(weights, "rounds", "workers")
    if complaint is None and len(weights["workers"][0]) != len(weights["groups"]):
        return "the weights of workers and of groups must be of the same number of workers"
    return complaint


_SHARE = optional(number())
_WEIGHTS = table(
    {"rounds": listed(whole(), least=1), "workers": grid(_SHARE), "groups": grid(_SHARE)},
    then=_check_weights,
)


def _check_end(line: Mapping[str, Any]) -> str | None:
    """A trial that has ended has a curve, if it has any points."""
    if line["error"] is not None and line["role"] != "tune":
        if not line["curve"]["steps"]:
            return "curve has no points"
        if all(error is None for error in line["curve"]["error"]):
            return "curve has no error"
    return None


_TRIAL = table(
    {
        "key": text,
        "role": one_of("pace", "tune", "test"),
        "arm": text,
        "setting": whole(),
        "condition": text,
        "seed": whole(),
        "config": table({"strategy": text, "lr": number(), "optimizer": text}),
        "metric": text,
        "error": optional(number()),
        "failure": text,
        "curve": _CURVE,
        "weights": optional(_WEIGHTS),
        "group_names": listed(text),
        "left_out": listed(whole()),
        "flatness": optional(trial_shape),
        "seconds": number(0.0),
    },
    then=_check_end,
)


def trial_of(study: Study, schema: int) -> Shape:
    """The shape of a line that is a trial of this study.

    Args:
        study: the study.
        schema: the version of lines that this version reads; others are not looked at.

    Returns:
        The shape.
    """
    settings = {arm.name: len(arm.possible) for arm in study.arms}
    conditions = {condition.name for condition in (*study.conditions, *study.tune_conditions)}

    def check(value: object, name: str) -> str | None:
        complaint = table({"schema": whole()})(value, name)
        if complaint or not isinstance(value, dict) or value["schema"] != schema:
            return complaint
        complaint = _TRIAL(value, name)
        if complaint:
            return complaint
        arm, place = saved_text(value["arm"], value["config"]), value["condition"]
        if arm not in settings or value["setting"] >= settings[arm]:
            return f"study.toml has no setting {value['setting']} of {arm!r:.60}"
        if value["role"] != "pace" and place not in conditions:
            return f"study.toml has no condition {place!r:.60}"
        return None

    return check
