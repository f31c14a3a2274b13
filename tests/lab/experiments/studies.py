"""Small studies and made-up results."""

from collections.abc import Sequence
from typing import Any

from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.curve import Curve
from grawa.lab.experiments.study import Arm, Condition, Study
from grawa.lab.experiments.trial import Result, plain_options


def arm(name: str, *, settings: int = 1, shares: bool = False, **options: Any) -> Arm:
    return Arm(
        name=name,
        method=name,
        settings=tuple({"strategy": name, "lr": 0.1 * (i + 1), **options} for i in range(settings)),
        shares_gradients=shares,
    )


def study(**changes: Any) -> Study:
    """Two methods under two conditions on two seeds."""
    usual: dict[str, Any] = {
        "kind": "compare",
        "base": TrainConfig(task="digits", steps=96, clock="virtual"),
        "arms": (arm("mgrawa"), arm("uniform")),
        "conditions": (
            Condition(name="clean", options={}),
            Condition(name="lr-x6:3", options={"fault": ("lr-x6:3",)}),
        ),
        "seeds": (0, 1),
        "baseline": "mgrawa",
        "axis": "steps",
        "points": 4,
    }
    return Study(**usual | changes)


def curve(errors: Sequence[float | None], **columns: Sequence[float]) -> Curve:
    """A curve with these errors; its axes count points from 1 where nothing is said."""
    count = [float(i + 1) for i in range(len(errors))]
    axes = {axis: list(columns.get(axis, count)) for axis in ("steps", "rounds", "bytes", "time")}
    return Curve(**axes, error=list(errors), loss=[0.5] * len(count), distance=[1.0] * len(count))


def result(
    arm: str,
    errors: Sequence[float | None],
    *,
    seed: int = 0,
    role: str = "test",
    condition: str = "clean",
    setting: int = 0,
    failure: str = "",
    weights: dict[str, Any] | None = None,
    group_names: Sequence[str] = (),
    flatness: dict[str, Any] | None = None,
    **columns: Sequence[float],
) -> Result:
    """A trial with this curve, which ends at its last error."""
    return Result(
        key="/".join([role, arm, condition, str(seed), str(setting)]),
        role=role,
        arm=arm,
        setting=setting,
        condition=condition,
        seed=seed,
        config=plain_options(TrainConfig(task="digits", strategy=arm).as_saved()),
        metric="test error",
        error=None if failure else errors[-1],
        failure=failure,
        curve=curve(errors, **columns),
        weights=weights,
        group_names=list(group_names),
        left_out=[0, 0],
        flatness=flatness,
        seconds=1.0,
    )
