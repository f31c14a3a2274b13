"""Whether a study's baseline ends flatter than the others: claims and a picture."""

import math
from collections.abc import Sequence
from functools import partial

from matplotlib.figure import Figure

from grawa.lab.experiments.study import Study
from grawa.lab.report.drawing import (
    Picture,
    grid_of,
    log_scale,
    mark_style,
    name_rows,
    panel_size,
    rows_height,
)
from grawa.lab.report.flats import Flat, exp_text, interval_text, measures_of
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
    return Picture(
        name="flatness",
        title=f"Sharpness at the end: {measure}",
        caption="Geometric mean over the seeds, and each seed as a dot; flatter is further left.",
        draw=partial(_draw, study=study, flats=flats, measure=measure),
        size=panel_size(
            len(study.measured), 2, rows_height([arm.name for arm in study.arms], 0.26)
        ),
    )


def _draw(figure: Figure, *, study: Study, flats: Sequence[Flat], measure: str) -> None:
    order = [arm.name for arm in study.arms]
    panels = grid_of(figure, len(study.measured), 2, sharey=True)
    for panel, condition in zip(panels, study.measured, strict=True):
        for flat in (f for f in flats if f.condition == condition):
            y, style = order.index(flat.arm), mark_style(order.index(flat.arm))
            values = [v for v in flat.values[measure].values() if v > 0.0]
            if values:
                mean = math.exp(sum(map(math.log, values)) / len(values))
                panel.plot(values, [y + 0.22] * len(values), ".", color=style["color"], alpha=0.5)
                panel.plot([mean], [y], linestyle="", **style)
        panel.set(title=condition, xlabel=f"{measure} of the consensus")
        log_scale(panel, "x")
        name_rows(panel, order)
