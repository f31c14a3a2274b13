"""Tables of the flatness at the end of a study's runs, and of its correlation with the gap."""

from collections.abc import Callable, Mapping, Sequence

from grawa.errors import UserError
from grawa.flatness import kendall
from grawa.lab.experiments.study import Study
from grawa.lab.report.flats import Flat, exp_of, exp_text, interval_text, measures_of
from grawa.lab.report.statistics import mean_of
from grawa.lab.report.tables import Cell, Table, Unit, with_error
from grawa.lab.report.verdicts import LEVEL, p_text

_NO = Cell(text="-")


def flat_tables(study: Study, flats: Sequence[Flat], unit: Unit) -> list[Table]:
    """All measures of all arms, one table per condition.

    Args:
        study: the study.
        flats: of all conditions.
        unit: formats errors.

    Returns:
        A table for each condition that has measurements.
    """
    by_condition = {
        name: [flat for flat in flats if flat.condition == name] for name in study.measured
    }
    return [_table(study, name, own, unit) for name, own in by_condition.items() if own]


def _table(study: Study, condition: str, flats: Sequence[Flat], unit: Unit) -> Table:
    measures = list(measures_of(study))
    gap_text = "{:.2f}".format if unit.in_percent else "{:.4g}".format
    rows = [
        [
            Cell(text=flat.arm),
            _mean({seed: unit.scale * gap for seed, gap in flat.values["gap"].items()}, gap_text),
            _mean(flat.values["loss"]),
            *(_mean(flat.values[name]) for name in measures),
            *_ratio_cells(flat),
        ]
        for flat in flats
    ]
    assert study.flatness is not None
    return Table(
        name=f"flatness-{study.measured.index(condition)}",
        title=f"{condition}: flatness",
        columns=[
            ("method", False), ("gap" + (" (%)" if unit.in_percent else ""), True), ("loss", True),
            *((name, True) for name in measures),
            (f"{measures[0]} over {study.baseline}'s", True), ("95% CI", False), ("p, Holm", True),
        ],
        rows=rows,
        note=f"Of the consensus at the end, over {study.flatness.samples} training samples without "
        "faults, mean ± standard error over the seeds. The gap is the test error minus the error "
        f"on {study.flatness.gap_samples:,} training samples, or on all if there are fewer. Ratios "
        "are geometric means over seeds, of runs with the same seed.",
    )  # fmt: skip


def _mean(values: Mapping[int, float], text: Callable[[float], str] = "{:.3g}".format) -> Cell:
    if not values:
        return _NO
    found = mean_of(list(values.values()))
    return Cell(text=with_error(found, text), value=found.mean, error=found.error)


def _ratio_cells(flat: Flat) -> list[Cell]:
    if flat.ratio is None:
        return [_NO] * 3
    clear = flat.corrected < LEVEL
    mean, low, high = (exp_of(log) for log in flat.ratio[:3])
    ratio = Cell(text=exp_text(flat.ratio.mean), value=mean, strong=clear)
    if flat.ratio.number < 2:
        return [ratio, _NO, _NO]
    return [
        ratio,
        Cell(text=interval_text(flat.ratio), value=low, high=high),
        Cell(text=p_text(flat.corrected), value=flat.corrected, strong=clear),
    ]


def correlation_table(study: Study, flats: Sequence[Flat]) -> Table:
    """Kendall's correlation of each measure with the generalisation gap, over runs."""
    groups = {name: [name] for name in study.measured}
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
        name="correlation",
        title="Is flatness correlated with the generalisation gap?",
        columns=[
            ("measure", False), ("runs of", False), ("Kendall's tau", True), ("95% CI", False),
            ("p", True), ("runs", True),
        ],
        rows=rows,
        note="Over all runs; 1 if of two runs the sharper one always has the larger gap, 0 if "
        "there is no relation. Runs of one seed share data, and runs of one method share "
        "settings, so they are not independent: intervals (bootstrap over runs) are too narrow, "
        "p too small.",
    )  # fmt: skip


def _correlated(pairs: Sequence[tuple[float, float]]) -> list[Cell]:
    try:
        found = kendall([m for m, _ in pairs], [g for _, g in pairs])
    except UserError:  # too few runs, or all values equal: there is no correlation to show
        return [_NO, _NO, _NO, Cell(text=str(len(pairs)), value=len(pairs))]
    return [
        Cell(text=f"{found.tau:+.2f}", value=found.tau),
        Cell(text=f"{found.low:+.2f} to {found.high:+.2f}", value=found.low, high=found.high),
        Cell(text=p_text(found.p_value), value=found.p_value),
        Cell(text=str(found.runs), value=found.runs),
    ]
