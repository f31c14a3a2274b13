"""Tables of a study."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from grawa.lab.experiments.study import Arm, Condition, Study
from grawa.lab.experiments.trial import Result
from grawa.lab.experiments.tuning import Due, at_edge, due_settings, mean_errors
from grawa.lab.report.order import by_error
from grawa.lab.report.outcomes import Outcome
from grawa.lab.report.statistics import Difference
from grawa.lab.report.tables import (
    Cell,
    Table,
    Unit,
    amounts_text,
    change_cell,
    interval_cell,
    mean_cell,
)
from grawa.lab.report.verdicts import LEVEL, p_text

_NO = Cell(text="-")

_COSTS = (
    ("steps", "local steps", 1.0),
    ("rounds", "rounds", 1.0),
    ("bytes", "sent by a worker (MB)", 1e-6),
    ("time", "modelled time (s)", 1.0),
)
"""Axis, its heading, and the factor of what is shown."""


def condition_table(
    study: Study, condition: Condition, outcomes: Sequence[Outcome], unit: Unit
) -> Table:
    """Errors and differences of all arms under a condition.

    Args:
        study: the study.
        condition: the condition.
        outcomes: of this condition.
        unit: formats errors.

    Returns:
        The table.
    """
    spent = amounts_text(study.axis, [o.spent(study.axis) for o in outcomes])
    where = f" after {spent}" if spent else ""
    failed = any(outcome.failed for outcome in outcomes)
    return Table(
        name=f"errors-{study.conditions.index(condition)}",
        title=f"{condition.name}: {unit.label}{where}",
        columns=[
            ("method", False),
            *([(study.knob, True)] if study.knob else []),
            (f"{unit.label} ± SE", True),
            ("runs", True),
            *([("failed", True)] if failed else []),
            (f"minus {'that at ' if study.knob else ''}{study.baseline}", True),
            ("95% CI", False),
            ("p", True),
            ("p, Holm", True),
        ],
        rows=[
            _row(study.arm(outcome.arm), outcome, unit, failed=failed)
            for outcome in by_error(study, outcomes)
        ],
        note="Differences are paired by seed; Holm's p is corrected for all comparisons of the "
        "study.",
        printed=True,
    )


def _row(arm: Arm, outcome: Outcome, unit: Unit, *, failed: bool) -> list[Cell]:
    label = [Cell(text=arm.method)]
    if arm.value:
        label.append(Cell(text=arm.value, value=_number(arm.value)))
    return [
        *label,
        _NO if outcome.end is None else mean_cell(outcome.end, unit),
        _count(len(outcome.errors)),
        *([_count(outcome.failed)] if failed else []),
        *_difference(outcome.difference, outcome, unit),
    ]


def _count(number: int) -> Cell:
    return Cell(text=str(number), value=number)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _difference(difference: Difference | None, outcome: Outcome, unit: Unit) -> list[Cell]:
    if difference is None:
        return [_NO] * 4
    clear = outcome.corrected < LEVEL
    change = change_cell(difference, unit, strong=clear)
    if difference.number < 2:
        return [change, _NO, _NO, _NO]
    return [
        change,
        interval_cell(difference, unit),
        Cell(text=p_text(difference.p), value=difference.p),
        Cell(text=p_text(outcome.corrected), value=outcome.corrected, strong=clear),
    ]


def cost_table(study: Study, outcomes: Iterable[Outcome]) -> Table:
    """What a run costs, averaged over runs that have finished."""
    rows = []
    for outcome in outcomes:
        if outcome.errors:
            cells = [_amount(scale * outcome.spent(axis)) for axis, _, scale in _COSTS]
            rows.append([Cell(text=outcome.arm), Cell(text=outcome.condition), *cells])
    return Table(
        name="costs",
        title="Cost of a run",
        columns=[
            ("method", False), ("condition", False), *((heading, True) for _, heading, _ in _COSTS),
        ],
        rows=rows,
        note=f"Each run has as many steps as fit into the same {study.axis}; its learning rate "
        "falls to zero over these.",
    )  # fmt: skip


def _amount(amount: float) -> Cell:
    return Cell(text=f"{amount:,.0f}" if amount >= 1000 else f"{amount:.4g}", value=amount)


def settings_table(study: Study, results: Sequence[Result]) -> Table:
    """The settings with which each arm was tested."""
    seen: dict[tuple[str, str], Result] = {}
    for result in results:
        if result.role == "test":
            seen.setdefault((result.arm, result.condition), result)
    due = due_settings(study, [result for result in results if result.role == "tune"])
    rows = [
        [
            Cell(text=arm),
            Cell(text=condition),
            Cell(text=result.config["strategy"]),
            Cell(text=f"{result.config['lr']:.3g}", value=result.config["lr"]),
            Cell(text=result.config["optimizer"]),
            *_tuning(study, result, due),
        ]
        for (arm, condition), result in seen.items()
    ]
    return Table(
        name="settings",
        title="Settings that were run",
        columns=[
            ("method", False), ("condition", False), ("strategy", False), ("lr", True),
            ("optimizer", False), ("settings tried", True), ("lr in the grid", False),
        ],
        rows=rows,
        note=_tuning_note(study),
    )  # fmt: skip


def _tuning(study: Study, result: Result, due: Due) -> list[Cell]:
    if not study.tune_seeds:
        return [Cell(text="not tuned", value=0), _NO]
    where = study.tune_conditions[0].name if study.tune_conditions else result.condition
    tried, grid = len(due[result.arm, where]), len(study.arm(result.arm).settings)
    further = f" + {tried - grid}" if tried > grid else ""
    edge = "at the edge" if at_edge(study, result) else "inside"
    return [Cell(text=f"{grid}{further}", value=tried), Cell(text=edge)]


def _tuning_note(study: Study) -> str:
    if not study.tune_seeds:
        return "Not tuned: every method uses its defaults."
    seeds = ", ".join(str(seed) for seed in study.tune_seeds)
    where = " + ".join(c.name for c in study.tune_conditions) or "separately for each condition"
    sides = max(len({setting["lr"] for setting in arm.beyond}) // 2 for arm in study.arms)
    grown = (
        "Where the best learning rate was the smallest or largest of those tried, the next one "
        f"beyond was tried too (+), up to {sides} on each side, for every method. "
        if sides
        else ""
    )
    return (
        f"Chosen by the mean error at the end, on validation seeds {seeds}, {where}; test seeds "
        f"are not used. {grown}If the choice is still at the edge, a value beyond it might be "
        "better."
    )


def grid_table(study: Study, results: Sequence[Result], unit: Unit) -> Table:
    """All settings that were tried, with their errors on the validation seeds."""
    rows = []
    tuned = [r for r in results if r.role == "tune"]
    for arm in study.arms:
        for condition in study.tune_conditions or study.conditions:
            own = [r for r in tuned if (r.arm, r.condition) == (arm.name, condition.name)]
            for setting, error in mean_errors(own).items():
                rows.append([
                    Cell(text=arm.name),
                    Cell(text=condition.name),
                    Cell(text=_setting_text(arm.possible[setting])),
                    Cell(text=_error_text(error, unit), value=unit.scale * error),
                ])
    return Table(
        name="tuning",
        title="All settings that were tried",
        columns=[
            ("method", False), ("condition", False), ("setting", False), (unit.label, True),
        ],
        rows=rows,
    )  # fmt: skip


def _error_text(error: float, unit: Unit) -> str:
    return unit.text(error) if math.isfinite(error) else "failed"


def _setting_text(setting: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in setting.items()
    )
