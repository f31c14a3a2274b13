"""Tables of a study."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from grawa.lab.experiments.run_study import mean_errors
from grawa.lab.experiments.study import Arm, Condition, Study
from grawa.lab.experiments.trial import Result
from grawa.lab.report.outcomes import Outcome
from grawa.lab.report.statistics import Difference
from grawa.lab.report.tables import Cell, Table, Unit, amount_text, amounts_text
from grawa.lab.report.verdicts import LEVEL, p_text

_NO = Cell(text="-")


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
    by_name = {o.arm: o for o in outcomes}
    return Table(
        title=f"{condition.name}: {unit.label}{where}",
        columns=[
            ("method", False),
            *([(study.knob, True)] if study.knob else []),
            ("error ± SE", True),
            ("runs", True),
            (f"minus {'that at ' if study.knob else ''}{study.baseline}", True),
            ("95% CI", False),
            ("p", True),
            ("p, Holm", True),
        ],
        rows=[_row(arm, by_name[arm.name], unit) for arm in study.arms if arm.name in by_name],
        note="Differences are paired by seed; Holm's p is corrected for all comparisons of the "
        "study.",
        printed=True,
    )


def _row(arm: Arm, outcome: Outcome, unit: Unit) -> list[Cell]:
    end = outcome.end
    error = _NO if end is None else Cell(text=unit.mean(end), value=end.mean)
    done = len(outcome.errors)
    failed = f", {outcome.failed} failed" if outcome.failed else ""
    runs = Cell(text=f"{done}{failed}", value=done)
    label = [Cell(text=arm.method)]
    if arm.value:
        label.append(Cell(text=arm.value, value=_number(arm.value)))
    return [*label, error, runs, *_difference(outcome.difference, outcome, unit)]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _difference(difference: Difference | None, outcome: Outcome, unit: Unit) -> list[Cell]:
    if difference is None:
        return [_NO] * 4
    mean = Cell(text=unit.change(difference), value=difference.mean)
    if difference.number < 2:
        return [mean, _NO, _NO, _NO]
    clear = outcome.corrected < LEVEL
    return [
        Cell(text=mean.text, value=mean.value, strong=clear),
        Cell(text=unit.interval(difference), value=difference.low),
        Cell(text=p_text(difference.p), value=difference.p),
        Cell(text=p_text(outcome.corrected), value=outcome.corrected, strong=clear),
    ]


def cost_table(study: Study, outcomes: Iterable[Outcome]) -> Table:
    """What a run costs, averaged over runs that have finished."""
    rows = []
    for outcome in outcomes:
        if outcome.errors:
            means = {axis: outcome.spent(axis) for axis in ("steps", "rounds", "bytes", "time")}
            cells = [Cell(text=_plain_amount(a, v), value=v) for a, v in means.items()]
            rows.append([Cell(text=outcome.arm), Cell(text=outcome.condition), *cells])
    return Table(
        title="Cost of a run",
        columns=[
            ("method", False), ("condition", False), ("local steps", True), ("rounds", True),
            ("sent by a worker", True), ("modelled time", True),
        ],
        rows=rows,
        note=f"Each run has as many steps as fit into the same {study.axis}; its learning rate "
        "falls to zero over these.",
    )  # fmt: skip


def settings_table(study: Study, results: Sequence[Result]) -> Table:
    """The settings with which each arm was tested."""
    seen: dict[tuple[str, str], Result] = {}
    for result in results:
        if result.role == "test":
            seen.setdefault((result.arm, result.condition), result)
    rows = [
        [
            Cell(text=arm),
            Cell(text=condition),
            Cell(text=result.config["strategy"]),
            Cell(text=f"{result.config['lr']:.3g}", value=result.config["lr"]),
            Cell(text=result.config["optimizer"]),
            *_tuning(study, result, results),
        ]
        for (arm, condition), result in seen.items()
    ]
    return Table(
        title="Settings that were run",
        columns=[
            ("method", False), ("condition", False), ("strategy", False), ("lr", True),
            ("optimizer", False), ("settings tried", True), ("lr in the grid", False),
        ],
        rows=rows,
        note=_tuning_note(study),
    )  # fmt: skip


def _tuning(study: Study, result: Result, results: Sequence[Result]) -> list[Cell]:
    tried = study.arm(result.arm).settings
    if not study.tune_seeds:
        return [Cell(text="not tuned", value=0), _NO]
    edge = "at the edge" if at_edge(study, result) else "inside"
    return [Cell(text=str(len(tried)), value=len(tried)), Cell(text=edge)]


def at_edge(study: Study, result: Result) -> bool:
    """Whether a run's learning rate is the smallest or largest of several that were tried."""
    lrs = {float(setting["lr"]) for setting in study.arm(result.arm).settings}
    return len(lrs) > 1 and float(result.config["lr"]) in {min(lrs), max(lrs)}


def _tuning_note(study: Study) -> str:
    if not study.tune_seeds:
        return "Not tuned: every method uses its defaults."
    seeds = ", ".join(str(seed) for seed in study.tune_seeds)
    where = " + ".join(c.name for c in study.tune_conditions) or "separately for each condition"
    return (
        f"Chosen by the mean error at the end, on validation seeds {seeds}, {where}; test seeds "
        "are not used. If the choice is at the edge of the grid, a value beyond it might be better."
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
                    Cell(text=_setting_text(arm.settings[setting])),
                    Cell(text=_error_text(error, unit), value=error),
                ])
    return Table(
        title="All settings that were tried",
        columns=[
            ("method", False), ("condition", False), ("setting", False), (unit.label, True),
        ],
        rows=rows,
    )  # fmt: skip


def _plain_amount(axis: str, amount: float) -> str:
    return f"{amount:,.0f}" if axis in {"steps", "rounds"} else amount_text(axis, amount)


def _error_text(error: float, unit: Unit) -> str:
    return unit.text(error) if math.isfinite(error) else "failed"


def _setting_text(setting: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in setting.items()
    )
