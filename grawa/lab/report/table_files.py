"""Tables as files: CSV for programs, and LaTeX for papers."""

import csv
import io
import math
import re
from collections.abc import Sequence

from grawa.lab.report.tables import Cell, Table

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$",
    "[": "{[}", "]": "{]}", "*": "{*}",  # at the beginning of a row they would be arguments of \\
}  # fmt: skip

_NONE = Cell(text="-")


def as_csv(table: Table) -> str:
    """The table with all its digits, one line of headings first (RFC 4180).

    A standard error has a column of its own, and so have both ends of an interval. Numbers are in
    the unit that the table shows; what is missing is an empty field.

    Args:
        table: the table.

    Returns:
        The text.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    columns = [
        _fields_of(heading, [row[place] for row in table.rows], numeric=numeric)
        for place, (heading, numeric) in enumerate(table.columns)
    ]
    for fields in zip(*columns, strict=True):
        writer.writerow([part for parts in fields for part in parts])
    return text.getvalue()


def _fields_of(heading: str, cells: Sequence[Cell], *, numeric: bool) -> list[list[str]]:
    """A column's heading and cells, each in one field or two."""
    if any(cell.error is not None for cell in cells):
        name = heading.removesuffix(" ± SE")
        return [
            [name, f"{name} SE"],
            *([_field(cell, cell.value), _field(_NONE, cell.error)] for cell in cells),
        ]
    if any(cell.high is not None for cell in cells):
        return [
            [f"{heading} low", f"{heading} high"],
            *([_field(_NONE, cell.value), _field(_NONE, cell.high)] for cell in cells),
        ]
    return [[heading], *([_field(cell, cell.value) if numeric else cell.text] for cell in cells)]


def _field(cell: Cell, value: float | None) -> str:
    """A number; the cell's text where it has none."""
    if value is not None and math.isfinite(value):
        return repr(value)
    return "" if cell.text == _NONE.text else cell.text


def as_latex(table: Table) -> str:
    r"""The table as it is shown, as a tabular with the rules of the package booktabs.

    The title and the note are comments, from which a caption can be written.

    Args:
        table: the table.

    Returns:
        The text, to be \input within a table environment.
    """
    align = "".join("r" if numeric else "l" for _, numeric in table.columns)
    rows = [_row([_escaped(heading) for heading, _ in table.columns])]
    rows += [r"\midrule", *(_row([_cell(cell) for cell in row]) for row in table.rows)]
    comments = [f"% {' '.join(text.split())}" for text in (table.title, table.note) if text]
    lines = [
        *comments, "% Needs \\usepackage{booktabs}.", rf"\begin{{tabular}}{{{align}}}",
        r"\toprule", *rows, r"\bottomrule", r"\end{tabular}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cell(cell: Cell) -> str:
    text = "--" if cell.text == _NONE.text else _escaped(cell.text)
    return rf"\textbf{{{text}}}" if cell.strong else text


def _escaped(text: str) -> str:
    r"""A text in which nothing is a command to LaTeX, and a minus sign is one.

    Returns:
        The text in LaTeX.

    >>> print(_escaped("local_sgd -1.05 50%"))
    local\_sgd $-$1.05 50\%
    """
    escaped = "".join(_LATEX.get(letter, letter) for letter in text)
    return re.sub(r"(?<![\w.-])-(?=\d)", "$-$", escaped)
