"""Tables of where runs on flat and sharp wells ended."""

import math
from collections.abc import Sequence

from grawa.lab.experiments.wells import KINDS, Walked
from grawa.lab.report.statistics import mean_of
from grawa.lab.report.tables import Cell, Table

_WORDS = {"flat": "in a flat well", "sharp": "in a sharp well", "none": "in no well"}


def end_table(runs: Sequence[Walked]) -> Table:
    """Where each method's consensus ended.

    Args:
        runs: one of each method, of one seed.

    Returns:
        The table, with a row for each.
    """
    rows = []
    for walked in runs:
        end, (x, y) = walked.end, walked.end.nearest.place
        rows.append([
            Cell(text=walked.method),
            _number(end.loss, 4),
            Cell(text=f"{end.nearest.kind} ({x:g}, {y:g})"),
            _number(end.distance, 2),
            Cell(text="no" if end.kind == "none" else "yes"),
            _number(end.eigenvalue, 2),
        ])
    return Table(
        name="ends",
        title=f"Where the consensus ended, seed {runs[0].seed}",
        columns=[
            ("method", False),
            ("loss", True),
            ("nearest well", False),
            ("distance", True),
            ("in it", False),
            ("eigenvalue", True),
        ],
        rows=rows,
        note="In a well: closer to its minimum than its width, 0.9 if flat and 0.3 if sharp. "
        "Eigenvalue: the largest of the Hessian.",
    )


def share_table(runs: Sequence[Walked]) -> Table:
    """How often each method's consensus ended in each kind of well.

    Args:
        runs: of several seeds.

    Returns:
        The table, with a row for each method.
    """
    methods = list(dict.fromkeys(walked.method for walked in runs))
    rows = []
    for name in methods:
        own = [walked.end for walked in runs if walked.method == name]
        losses = [end.loss for end in own if math.isfinite(end.loss)]
        shares = [share_cell(sum(end.kind == kind for end in own), len(own)) for kind in KINDS]
        rows.append([Cell(text=name), *shares, _mean_cell(losses)])
    return Table(
        name="shares",
        title=f"Where it ended over {len(runs) // len(methods)} seeds, from {runs[0].seed} on",
        columns=[("method", False), *((_WORDS[kind], True) for kind in KINDS), ("loss", True)],
        rows=rows,
        note="± standard error; of a percentage, the standard deviation of Beta(k+1, n-k+1), which "
        "is not 0 if all runs agree.",
    )


def share_cell(count: int, of: int) -> Cell:
    """A percentage and its standard error.

    The error is the standard deviation of Beta(k+1, n-k+1): sqrt(p (1-p) / (n+3)), p = (k+1)/(n+2).

    Args:
        count: k.
        of: n.

    Returns:
        In percent.

    >>> share_cell(15, 20).text, share_cell(20, 20).text
    ('75 ± 9 %', '100 ± 4 %')
    """
    rate = (count + 1) / (of + 2)
    error = math.sqrt(rate * (1.0 - rate) / (of + 3))
    share = 100 * count / of
    return Cell(text=f"{share:.0f} ± {100 * error:.0f} %", value=share, error=100 * error)


def _mean_cell(losses: Sequence[float]) -> Cell:
    if not losses:
        return Cell(text="diverged")
    mean = mean_of(losses)
    text = f"{mean.mean:.3f} ± {mean.error:.3f}"
    return Cell(text=text, value=mean.mean, error=mean.error)


def _number(value: float, digits: int) -> Cell:
    if not math.isfinite(value):
        return Cell(text="-")
    return Cell(text=f"{value:.{digits}f}", value=value)
