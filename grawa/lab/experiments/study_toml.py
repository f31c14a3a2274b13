"""Writes and reads `study.toml`."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from grawa.errors import UserError
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.flatness_config import FlatnessConfig
from grawa.lab.experiments.older import (
    current_options,
    current_text,
    saved_text,
    with_saved_defaults,
)
from grawa.lab.experiments.options import as_lists
from grawa.lab.experiments.study import Arm, Condition, Study
from grawa.lab.experiments.study_shape import STUDY_SHAPE, as_options
from grawa.lab.shapes import WHOLE

SCHEMA = 3
"""Version of `study.toml`; increased when the meaning of an entry changes."""

OTHER_DEFAULTS = 2
"""The version in which mgrawa and lgrawa had training norms and outer optimizers a momentum of 0.9,
where nothing was named."""


def as_toml(study: Study) -> dict[str, Any]:
    """The content of `study.toml`."""
    return {
        "schema": SCHEMA,
        "kind": study.kind,
        "knob": study.knob,
        "axis": study.axis,
        "points": study.points,
        "baseline": study.baseline,
        "seeds": list(study.seeds),
        "tune_seeds": list(study.tune_seeds),
        "base": study.base.as_toml(),
        "conditions": [_plain(condition) for condition in study.conditions],
        "tune_conditions": [_plain(condition) for condition in study.tune_conditions],
        "arms": [_plain(arm) for arm in study.arms],
        "flatness": {} if study.flatness is None else as_lists(asdict(study.flatness)),
        "flat_conditions": list(study.flat_conditions),
    }


def from_toml(table: dict[str, Any], path: Path) -> Study:
    """Restores a study from what `as_toml` returned.

    Returns:
        The study.

    Raises:
        UserError: if it was written by another version, or is incomplete.
    """
    found = table.get("schema")
    if found not in (OTHER_DEFAULTS, SCHEMA):
        raise UserError(f"{path} has schema {found!r}, but this version of grawa reads {SCHEMA}")
    complaint = STUDY_SHAPE(table, WHOLE)
    if complaint:
        raise UserError(f"{path} is not a complete study: {complaint}")
    if found == OTHER_DEFAULTS:
        table = _with_saved_defaults(table)
    base, flatness = table["base"], as_options(table["flatness"])
    try:
        return Study(
            kind=table["kind"],
            knob=table["knob"],
            axis=table["axis"],
            points=table["points"],
            baseline=current_text(table["baseline"]),
            seeds=tuple(table["seeds"]),
            tune_seeds=tuple(table["tune_seeds"]),
            base=TrainConfig.from_toml(base, path),
            conditions=tuple(map(_condition, table["conditions"])),
            tune_conditions=tuple(map(_condition, table["tune_conditions"])),
            arms=tuple(_arm(entry, base) for entry in table["arms"]),
            flatness=FlatnessConfig(**flatness) if flatness else None,
            flat_conditions=tuple(table.get("flat_conditions", ())),
        )
    except UserError as error:
        raise UserError(f"{path} is not a complete study: {error}") from None


def _plain(value: Arm | Condition) -> dict[str, Any]:
    return {
        name: [dict(s) for s in entry] if name in {"settings", "beyond"} else entry
        for name, entry in vars(value).items()
    }


def _arm(entry: Mapping[str, Any], base: Mapping[str, Any]) -> Arm:
    settings, beyond = (
        tuple(as_options(current_options(each, base)) for each in entry.get(name, ()))
        for name in ("settings", "beyond")
    )
    return Arm(
        name=current_text(entry["name"]),
        method=current_text(entry["method"]),
        alias_of=current_text(entry.get("alias_of", "")),
        value=entry.get("value", ""),
        settings=settings,
        beyond=beyond,
        shares_gradients=entry["shares_gradients"],
    )


def _with_saved_defaults(table: Mapping[str, Any]) -> dict[str, Any]:
    """Converts a study, so that its settings and the names of its methods say these defaults."""
    base = table["base"]
    arms = [
        {
            **arm,
            **{
                name: saved_text(arm[name], {**base, **arm["settings"][0]})
                for name in ("name", "method", "alias_of")
                if name in arm
            },
            **{
                name: [with_saved_defaults(each, base) for each in arm.get(name, ())]
                for name in ("settings", "beyond")
            },
        }
        for arm in table["arms"]
    ]
    new = {before["name"]: after["name"] for before, after in zip(table["arms"], arms, strict=True)}
    baseline = new.get(table["baseline"], table["baseline"])
    return {**table, "schema": SCHEMA, "baseline": baseline, "arms": arms}


def _condition(entry: Mapping[str, Any]) -> Condition:
    return Condition(name=entry["name"], options=as_options(entry["options"]))
