"""How flat the ends of a study's runs are, and whether that goes with the generalisation gap."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from grawa.errors import UserError
from grawa.experiments.flatness import CONSENSUS
from grawa.experiments.study import Study
from grawa.experiments.trial import Result
from grawa.flatness import kendall
from grawa.report.drawing import Picture, grid_of, log_scale, mark_style, panel_size
from grawa.report.statistics import Difference, holm, mean_of, paired_difference
from grawa.report.tables import Cell, Table, Unit, with_error
from grawa.report.verdicts import LEVEL, Verdict, finding, p_text

_NO = Cell(text="-")

Read = Callable[[Mapping[str, Any]], float | None]
"""From what a trial measured to a number; `None` where there is none."""


def _model(name: str) -> Read:
    def read(found: Mapping[str, Any]) -> float | None:
        entry = found["models"][CONSENSUS][name]
        value: float | None = entry["value"] if isinstance(entry, dict) else entry
        return value

    return read


def _rise(radius: float) -> Read:
    def read(found: Mapping[str, Any]) -> float | None:
        rise: float | None = found["models"][CONSENSUS]["sharpness"][str(radius)]
        return rise

    return read


def _eigenvalue(found: Mapping[str, Any]) -> float | None:
    many = found["models"][CONSENSUS]["eigenvalues"]
    largest: float | None = many[0]["value"] if many else None
    return largest


def _valley(found: Mapping[str, Any]) -> float | None:
    width: float | None = found["valley"]["inverse_mean"] if found["valley"] else None
    return width


def measures_of(study: Study) -> dict[str, Read]:
    """What is measured of a run's end, each larger where it is sharper; the first is claimed of.

    Args:
        study: what was asked, with flatness.

    Returns:
        Name -> how to read it.
    """
    assert study.flatness is not None, "asked for without flatness"
    curved = {
        "trace": _model("trace"),
        "trace / loss": _model("trace_over_loss"),
        "eigenvalue": _eigenvalue,
    }
    return {
        **(curved if study.flatness.eigenvalues else {}),
        **{f"rise at {radius:g}": _rise(radius) for radius in reversed(study.flatness.radii)},
        "gradient norm": _model("gradient_norm"),
        "inverse mean valley": _valley,
    }


@dataclass(frozen=True, kw_only=True)
class Flat:
    """An arm's measurements under a condition.

    Attributes:
        arm: its name.
        condition: its name.
        values: measure -> seed -> value, where there is one.
        ratio: of the first measure to the baseline's, as a difference of logarithms; `None` for the
            baseline, and without pairs.
        corrected: its p-value, corrected for all comparisons of the study.
    """

    arm: str
    condition: str
    values: Mapping[str, Mapping[int, float]]
    ratio: Difference | None
    corrected: float = math.nan


def flats_of(study: Study, results: Sequence[Result]) -> list[Flat]:
    """Every arm under every condition, of those that were measured.

    Args:
        study: what was asked.
        results: of its trials.

    Returns:
        In the order of conditions and arms; none if flatness was not asked for.
    """
    if study.flatness is None:
        return []
    measures = measures_of(study)
    measures |= {"gap": _model("gap"), "train": _model("train_error"), "loss": _model("loss")}
    known = [r for r in results if r.flatness and "models" in r.flatness]
    found = []
    for condition in study.conditions:
        values = {
            arm.name: {
                name: _each([r for r in known if _is(r, arm.name, condition.name)], read)
                for name, read in measures.items()
            }
            for arm in study.arms
        }
        first = {name: own[next(iter(measures))] for name, own in values.items()}
        found += [
            Flat(
                arm=name,
                condition=condition.name,
                values=own,
                ratio=_log_ratio(first[name], first[study.baseline_of(name)])
                if name != study.baseline_of(name)
                else None,
            )
            for name, own in values.items()
            if own["loss"]
        ]
    corrected = holm([flat.ratio.p if flat.ratio else math.nan for flat in found])
    return [replace(flat, corrected=p) for flat, p in zip(found, corrected, strict=True)]


def _is(result: Result, arm: str, condition: str) -> bool:
    return (result.arm, result.condition) == (arm, condition)


def _each(results: Sequence[Result], read: Read) -> dict[int, float]:
    values = {r.seed: read(r.flatness) for r in results if r.flatness}
    return {seed: value for seed, value in values.items() if value is not None}


def _log_ratio(own: Mapping[int, float], base: Mapping[int, float]) -> Difference | None:
    """The mean of log(own / base) over the seeds on which both are positive."""
    seeds = [s for s in sorted(own.keys() & base.keys()) if own[s] > 0.0 and base[s] > 0.0]
    if not seeds:
        return None
    return paired_difference(
        [math.log(own[seed]) for seed in seeds], [math.log(base[seed]) for seed in seeds]
    )


def flat_tables(study: Study, flats: Sequence[Flat], unit: Unit) -> list[Table]:
    """All measures of all arms, condition by condition.

    Args:
        study: what was asked.
        flats: of all conditions.
        unit: how errors are written.

    Returns:
        A table for each condition that has measurements.
    """
    by_condition = {
        condition.name: [flat for flat in flats if flat.condition == condition.name]
        for condition in study.conditions
    }
    return [_table(study, name, own, unit) for name, own in by_condition.items() if own]


def _table(study: Study, condition: str, flats: Sequence[Flat], unit: Unit) -> Table:
    measures = list(measures_of(study))
    rows = [
        [
            Cell(text=flat.arm),
            _mean(flat.values["gap"], unit.text),
            _mean(flat.values["loss"]),
            *(_mean(flat.values[name]) for name in measures),
            *_ratio_cells(flat),
        ]
        for flat in flats
    ]
    assert study.flatness is not None
    return Table(
        title=f"{condition}: flatness",
        columns=[
            ("method", False), ("gap" + (" (%)" if unit.in_percent else ""), True), ("loss", True),
            *((name, True) for name in measures),
            (f"{measures[0]} over {study.baseline}'s", True), ("95% CI", False), ("p, Holm", True),
        ],
        rows=rows,
        note=f"Of the consensus at the end, over {study.flatness.samples} training samples without "
        "faults, mean ± standard error over the seeds. The gap is the error on the test less that "
        f"on the training samples. Ratios are geometric means over pairs of a seed.",
    )  # fmt: skip


def _mean(values: Mapping[int, float], text: Callable[[float], str] = "{:.3g}".format) -> Cell:
    if not values:
        return _NO
    found = mean_of(list(values.values()))
    return Cell(text=with_error(found, text), value=found.mean)


def _ratio_cells(flat: Flat) -> list[Cell]:
    if flat.ratio is None:
        return [_NO] * 3
    ratio = Cell(text=f"{math.exp(flat.ratio.mean):.2f}", value=flat.ratio.mean)
    if flat.ratio.number < 2:
        return [ratio, _NO, _NO]
    clear = flat.corrected < LEVEL
    return [
        Cell(text=ratio.text, value=ratio.value, strong=clear),
        Cell(text=_interval(flat.ratio), value=flat.ratio.low),
        Cell(text=p_text(flat.corrected), value=flat.corrected, strong=clear),
    ]


def _interval(ratio: Difference) -> str:
    return f"{math.exp(ratio.low):.2f} to {math.exp(ratio.high):.2f}"


def flat_verdicts(study: Study, flats: Sequence[Flat]) -> dict[str, list[Verdict]]:
    """Whether the baseline ends flatter than each other arm, by the first measure, if any."""
    if not flats:
        return {}
    measure = next(iter(measures_of(study)))
    found = []
    for flat in flats:
        if flat.ratio is None:
            continue
        ratio, seeds = flat.ratio, flat.ratio.number
        why = f"One seed alone, ratio {math.exp(ratio.mean):.2f}"
        if seeds > 1:
            why = (
                f"Its {measure} over the baseline's is {math.exp(ratio.mean):.2f}, 95% CI "
                f"{_interval(ratio)}, {seeds} seeds, corrected p {p_text(flat.corrected)}"
            )
        claim = f"{study.baseline_of(flat.arm)} ends flatter than {flat.arm}, {flat.condition}"
        outcome = finding(ratio, flat.corrected) if seeds > 1 else "no answer"
        found.append(Verdict(claim=claim, outcome=outcome, why=why))
    return {f"Ends flatter, by the {measure}": found}


def correlation_table(study: Study, flats: Sequence[Flat]) -> Table:
    """Kendall's correlation of each measure with the generalisation gap, over runs."""
    groups = {condition.name: [condition.name] for condition in study.conditions}
    if len(groups) > 1:
        groups["all conditions"] = list(groups)
    rows = []
    for group, conditions in groups.items():
        for name in ("loss", *measures_of(study)):
            pairs = [
                (flat.values[name][seed], gap)
                for flat in flats
                if flat.condition in conditions
                for seed, gap in flat.values["gap"].items()
                if seed in flat.values[name]
            ]
            rows.append([Cell(text=name), Cell(text=group), *_correlated(pairs)])
    return Table(
        title="Does flatness go with the generalisation gap?",
        columns=[
            ("measure", False), ("runs of", False), ("Kendall's tau", True), ("95% CI", False),
            ("p", True), ("runs", True),
        ],
        rows=rows,
        note="Over all runs; 1 where the sharper one of two always has the larger gap, 0 where "
        "that tells nothing. Runs of one seed share data, and runs of one method a setting, so "
        "they are not independent: intervals (bootstrap over runs) and p are too narrow.",
    )  # fmt: skip


def _correlated(pairs: Sequence[tuple[float, float]]) -> list[Cell]:
    try:
        found = kendall([m for m, _ in pairs], [g for _, g in pairs])
    except UserError:  # too few runs, or all of them alike: there is no correlation to show
        return [_NO, _NO, _NO, Cell(text=str(len(pairs)), value=len(pairs))]
    return [
        Cell(text=f"{found.tau:+.2f}", value=found.tau),
        Cell(text=f"{found.low:+.2f} to {found.high:+.2f}", value=found.low),
        Cell(text=p_text(found.p_value), value=found.p_value),
        Cell(text=str(found.runs), value=found.runs),
    ]


def flat_picture(study: Study, flats: Sequence[Flat]) -> Picture:
    """The first measure of every arm under every condition."""
    measure = next(iter(measures_of(study)))
    return Picture(
        name="flatness",
        title=f"Sharpness of the end: {measure}",
        caption="Geometric mean over the seeds, and each seed as a dot; flatter is further left.",
        draw=partial(_draw, study=study, flats=flats, measure=measure),
        size=panel_size(len(study.conditions), 2, 0.26 * len(study.arms) + 1.2),
    )


def _draw(figure: Figure, *, study: Study, flats: Sequence[Flat], measure: str) -> None:
    order = [arm.name for arm in study.arms]
    panels = grid_of(figure, len(study.conditions), 2, sharey=True)
    for panel, condition in zip(panels, study.conditions, strict=True):
        for flat in (f for f in flats if f.condition == condition.name):
            y, style = order.index(flat.arm), mark_style(order.index(flat.arm))
            values = [v for v in flat.values[measure].values() if v > 0.0]
            if values:
                mean = math.exp(sum(map(math.log, values)) / len(values))
                panel.plot(values, [y + 0.22] * len(values), ".", color=style["color"], alpha=0.5)
                panel.plot([mean], [y], linestyle="", **style)
        panel.set(title=condition.name, xlabel=f"{measure} of the consensus")
        log_scale(panel, "x")
        panel.set_yticks(range(len(order)), order)
        panel.set_ylim(len(order) - 0.5, -0.5)
