"""Whether a study's baseline ends flatter than the others: claims and a picture."""

import math
from collections.abc import Mapping, Sequence
from functools import partial

from matplotlib.figure import Figure

from grawa.lab.experiments.study import Study
from grawa.lab.report.colours import styles_of
from grawa.lab.report.drawing import Picture
from grawa.lab.report.flats import Flat, exp_text, interval_text, measures_of
from grawa.lab.report.layout import (
    Layout,
    dots,
    log_scale,
    name_rows,
    reference_line,
    with_rows,
)
from grawa.lab.report.order import order_text, ranked
from grawa.lab.report.verdicts import Verdict, finding, p_text


def flat_verdicts(study: Study, flats: Sequence[Flat]) -> dict[str, list[Verdict]]:
    """The claims that the baseline ends flatter than each other arm, by the first measure."""
    if not flats:
        return {}
    measure = next(iter(measures_of(study)))
    found = []
    for flat in flats:
        if flat.ratio is None:
            continue
        ratio, seeds = flat.ratio, flat.ratio.number
        why = f"One seed alone, ratio {exp_text(ratio.mean)}"
        if seeds > 1:
            why = (
                f"Its {measure} over the baseline's is {exp_text(ratio.mean)}, 95% CI "
                f"{interval_text(ratio)}, {seeds} seeds, corrected p {p_text(flat.corrected)}"
            )
        claim = f"{study.baseline_of(flat.arm)} ends flatter than {flat.arm}, {flat.condition}"
        outcome = finding(ratio, flat.corrected) if seeds > 1 else "no answer"
        found.append(Verdict(claim=claim, outcome=outcome, why=why))
    return {f"Ends flatter, by the {measure}": found}


def flat_picture(study: Study, flats: Sequence[Flat]) -> Picture:
    """The first measure of every arm under every condition."""
    measure = next(iter(measures_of(study)))
    layout = with_rows(len(study.measured), [arm.name for arm in study.arms])
    return Picture(
        name="flatness",
        title=f"Sharpness at the end: {measure}",
        caption="Geometric mean over the seeds, and each seed as a dot; flatter is further left."
        + order_text(study, layout.panels),
        layout=layout,
        draw=partial(_draw, layout=layout, study=study, flats=flats, measure=measure),
    )


def _draw(
    figure: Figure, *, layout: Layout, study: Study, flats: Sequence[Flat], measure: str
) -> None:
    styles, typical = styles_of(study), {}
    for flat in flats:
        logs = [math.log(v) for v in flat.values[measure].values() if v > 0.0]
        if logs:
            typical[flat.arm, flat.condition] = sum(logs) / len(logs)
    rows = ranked(study, _by_arm(typical))
    panels = layout.axes(figure, sharey=True)
    for panel, condition in zip(panels, study.measured, strict=True):
        for flat in (
            f for f in flats if (f.arm, condition) in typical and f.condition == condition
        ):
            y, style = rows.index(flat.arm), styles[flat.arm]
            values, mean = flat.values[measure].values(), math.exp(typical[flat.arm, condition])
            shown = [value for value in values if value > 0.0]
            dots(panel, shown, y + 0.22, style.colour)
            panel.plot([mean], [y], linestyle="", **style.points)
            if flat.arm == study.baseline:
                reference_line(panel, mean)
        panel.set(title=condition, xlabel=f"{measure} of the consensus")
        log_scale(panel, "x")
        name_rows(panel, rows)


def _by_arm(typical: Mapping[tuple[str, str], float]) -> dict[str, list[float]]:
    """The values of each arm under all conditions."""
    found: dict[str, list[float]] = {}
    for (arm, _), value in typical.items():
        found.setdefault(arm, []).append(value)
    return found
