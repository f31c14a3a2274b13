"""What `study.toml` holds."""

from collections.abc import Mapping
from typing import Any, get_args

from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.flatness_config import FlatnessConfig
from grawa.lab.experiments.older import current_options
from grawa.lab.experiments.option_types import wrong_options
from grawa.lab.experiments.study import Axis
from grawa.lab.shapes import (
    Shape,
    anything,
    flag,
    listed,
    mapping,
    number,
    one_of,
    table,
    text,
    whole,
)

_SEED = whole()
_OPTIONS = mapping(anything)
_CONDITION = table({"name": text, "options": _OPTIONS})
_SETTING = table({"strategy": text, "lr": number()})

_ARM = table(
    {
        "name": text,
        "method": text,
        "settings": listed(_SETTING, least=1),
        "shares_gradients": flag,
    },
    {"value": text, "alias_of": text, "beyond": listed(_SETTING)},
)


def _check_options(study: Mapping[str, Any]) -> str | None:
    """Options have their types, names are different, and runs end by steps."""
    base = study["base"]
    changes = [base, *(condition["options"] for condition in _conditions(study))]
    changes += [
        setting for arm in study["arms"] for setting in arm["settings"] + arm.get("beyond", [])
    ]
    for options in changes:
        complaint = wrong_options(as_options(current_options(options, base)), TrainConfig)
        if complaint:
            return f"of a run, {complaint}"
    complaint = wrong_options(as_options(study["flatness"]), FlatnessConfig)
    if complaint:
        return f"of flatness, {complaint}"
    missing = [name for name in ("task", "steps") if name not in base]
    if missing:
        return f"base has no {missing[0]}"
    for what in ("arms", "conditions", "tune_conditions"):
        names = [one["name"] for one in study[what]]
        if len(set(names)) < len(names):
            return f"the names of {what} must be different"
    return None


def _conditions(study: Mapping[str, Any]) -> list[Any]:
    return [*study["conditions"], *study["tune_conditions"]]


def as_options(table: Mapping[str, Any]) -> dict[str, Any]:
    """Options as TOML has them, with its lists as tuples."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in table.items()}


STUDY_SHAPE: Shape = table(
    {
        "kind": one_of("compare", "ablate"),
        "knob": text,
        "axis": one_of(*get_args(Axis)),
        "points": whole(1, 10**6),
        "baseline": text,
        "seeds": listed(_SEED, least=1),
        "tune_seeds": listed(_SEED),
        "base": _OPTIONS,
        "conditions": listed(_CONDITION, least=1),
        "tune_conditions": listed(_CONDITION),
        "arms": listed(_ARM, least=1),
        "flatness": _OPTIONS,
    },
    {"flat_conditions": listed(text)},
    _check_options,
)
