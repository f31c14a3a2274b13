"""The picture of the first page of the evidence: a panel for each kind of data."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from evidence_kinds import Kind
from evidence_studies import ON_A_LINK
from evidence_tables import Read, common_name, end_of, kind_of, on_a_link
from grawa.lab.report.colours import INK, numbered
from grawa.lab.report.drawing import Picture
from grawa.lab.report.layout import Layout, name_rows, rows_height
from grawa.lab.report.outcomes import Outcome
from grawa.lab.report.pooled import Pooled
from grawa.lab.report.statistics import Difference

LABELS: Mapping[str, str] = {
    "inverse_loss:score=probe-loss:pull=1": "losses on a shared batch",
    "mgrawa:score=probe-times-loss:score.from=middle:pull=1": "GRAWA norms x loss, late",
    "mgrawa:score=probe:pull=1": "MGRAWA",
    "lgrawa:score=probe:pull=1": "LGRAWA",
    "mgrawa:score=displacement:pull=1": "displacement norms",
    "edit:outer.lr=0.7:outer.momentum=0.3": "EDiT",
    "rda": "RDA",
    "diloco": "DiLoCo",
    "local_sgd:prox=0.5:prox_probability=0.1": "PALSGD",
    "data_parallel": "data parallel",
}
"""Method, as tables have it -> its name in the picture, in the order of its rows."""

_LANGUAGE_MODEL = Path("benchmarks/results/language_model.json")
_ITS_LABELS: Mapping[str, str] = {
    "mgrawa:score=probe:score.size=16:pull=1": "MGRAWA",
    "lgrawa:score=probe:score.size=16:pull=1": "LGRAWA",
    "inverse_loss:score=probe-loss:score.size=16:pull=1": "losses on a shared batch",
}
"""The methods that have other options there; without a label in either table one is not shown."""

_WIDEST = 25.0
"""In percent; a mean beyond it is drawn as an arrow at the edge."""


class _Mark(NamedTuple):
    """A difference to the baseline, in percent of its error."""

    row: str
    task: str
    low: float
    mean: float
    high: float


def answers_picture(reads: Sequence[Read]) -> Picture:
    """Errors relative to LocalSGD's.

    Args:
        reads: of all studies.

    Returns:
        The picture.
    """
    clean, kinds = (
        [mark for read, methods in on_a_link(reads, where) for mark in _marks(read, methods)]
        for where in ON_A_LINK.values()
    )
    family = [read for read in reads if kind_of(read) is Kind.FAMILY]
    mixed = [mark for read in family for mark in _marks(read, read.pooled)]
    panels = {
        "Clean data,\nslow link": [*clean, *_language_model("clean")],
        "Workers of\nmixed quality": [*mixed, *_language_model("mixed")],
        "Data of\ndifferent kinds": kinds,
    }
    names = list(LABELS.values())
    layout = Layout(panels=len(panels), across=len(panels), height=rows_height(names, 0.42) + 0.4)
    return Picture(
        name="answers",
        title="Error minus that of LocalSGD, in % of it",
        caption="Marks are means, bars 95% confidence intervals; left of the line is better. An "
        "arrow at the right edge stands for a mean beyond it.",
        layout=layout,
        draw=partial(_draw, layout=layout, panels=panels, names=names),
    )


def _marks(read: Read, methods: Sequence[Outcome | Pooled]) -> list[_Mark]:
    """The differences of all methods of a study to its baseline."""
    task = re.sub(r"^[a-z]+-|-\d+$", "", read.name)
    level = end_of(read.study.baseline, methods).mean
    return [
        _mark(LABELS[common_name(one.arm)], task, level, one.difference)
        for one in methods
        if one.difference is not None
    ]


def _mark(row: str, task: str, level: float, apart: Difference) -> _Mark:
    shares = (100.0 * value / level for value in (apart.low, apart.mean, apart.high))
    return _Mark(row, task, *shares)


def _language_model(quality: str) -> list[_Mark]:
    """The language model of 1.3 million parameters, at equal steps."""
    rows = json.loads(_LANGUAGE_MODEL.read_text("utf-8"))["rows"]
    level = {row["quality"]: row["mean"] for row in rows if row["method"] == "local_sgd"}
    marks = []
    for row in rows:
        label = _ITS_LABELS.get(row["method"]) or LABELS.get(row["method"])
        if row["quality"] == quality and row["difference"] is not None and label:
            low, high = row["interval"]
            shares = (100.0 * x / level[quality] for x in (low, row["difference"], high))
            marks.append(_Mark(label, "language model", *shares))
    return marks


def _draw(
    figure: Figure,
    *,
    layout: Layout,
    panels: Mapping[str, Sequence[_Mark]],
    names: Sequence[str],
) -> None:
    axes = layout.axes(figure, sharey=True)
    tasks = list(dict.fromkeys(mark.task for marks in panels.values() for mark in marks))
    for panel, (title, marks) in zip(axes, panels.items(), strict=True):
        panel.axvline(0.0, color=INK, linewidth=1.0)
        for nth, task in enumerate(tasks):
            _draw_task(panel, [mark for mark in marks if mark.task == task], names, nth)
        name_rows(panel, names)
        panel.set(title=title, xlim=(-1.08 * _WIDEST, 1.08 * _WIDEST))
    known = [Line2D([], [], **numbered(nth).points) for nth in range(len(tasks))]
    figure.legend(known, tasks, ncols=len(tasks), loc="outside lower center")


def _draw_task(panel: Any, marks: Sequence[_Mark], names: Sequence[str], nth: int) -> None:
    style = numbered(nth).points
    for mark in marks:
        y = names.index(mark.row) + 0.15 * (nth - 2)
        if mark.mean > _WIDEST:
            panel.plot(_WIDEST, y, ">", color=style["color"])
        else:
            low, high = max(mark.low, -_WIDEST), min(mark.high, _WIDEST)
            error = [[mark.mean - low], [high - mark.mean]]
            panel.errorbar(mark.mean, y, xerr=error, **style)
