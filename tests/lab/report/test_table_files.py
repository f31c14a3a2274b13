"""Tables as files: numbers come back, and names are no commands to LaTeX."""

import csv
import io
import math
import re

import pytest

from grawa.lab.report.outcomes import outcomes_of
from grawa.lab.report.study_tables import condition_table
from grawa.lab.report.table_files import as_csv, as_latex
from grawa.lab.report.tables import Cell, Table, Unit
from tests.lab.experiments.studies import arm, result, study

NAME = '[a,"b"_%&#${}~^\\'
ERRORS = {"mgrawa": [0.1, 0.2, 0.4], "uniform": [0.2, 0.3, 0.6], NAME: [0.1, 0.1]}


def errors() -> Table:
    asked = study(arms=tuple(map(arm, ERRORS)), conditions=study().conditions[:1])
    results = [
        result(name, [0.9, error], seed=seed)
        for name, each in ERRORS.items()
        for seed, error in enumerate(each)
    ]
    return condition_table(
        asked, asked.conditions[0], outcomes_of(asked, results), Unit("test error")
    )


def test_a_csv_file_has_the_numbers_with_all_digits() -> None:
    table = errors()
    rows = list(csv.DictReader(io.StringIO(as_csv(table))))
    assert [row["method"] for row in rows] == [NAME, "mgrawa", "uniform"]
    mgrawa, uniform = rows[1:]
    assert float(mgrawa["test error (%)"]) == pytest.approx(70 / 3, rel=1e-15)
    assert float(mgrawa["test error (%) SE"]) == pytest.approx(100 * math.sqrt(7 / 900), rel=1e-12)
    assert [mgrawa[name] for name in ("minus mgrawa", "95% CI low", "p")] == ["", "", ""]
    # Differences of 10, 10 and 20 points; t has two degrees of freedom.
    half = 4.302652729749464 * math.sqrt(100 / 3 / 3)
    assert float(uniform["minus mgrawa"]) == pytest.approx(40 / 3)
    assert float(uniform["95% CI low"]) == pytest.approx(40 / 3 - half)
    assert float(uniform["95% CI high"]) == pytest.approx(40 / 3 + half)
    cells = [cell for row in table.rows for cell in row]
    shown = {repr(v) for c in cells for v in (c.value, c.error, c.high) if v is not None}
    written = {value for row in rows for value in row.values() if value} - set(ERRORS)
    assert written <= shown  # they parse back to the same floats


def test_a_csv_file_has_the_text_of_numbers_that_are_none() -> None:
    cells = ("failed", math.inf), ("-", None), ("4,810", None), ("2.5", 2.5)
    table = Table(
        name="t", title="t", columns=[("x", True)], rows=[[Cell(text=t, value=v)] for t, v in cells]
    )
    assert [row for (row,) in csv.reader(io.StringIO(as_csv(table)))] == [
        "x", "failed", "", "4,810", "2.5",
    ]  # fmt: skip


def test_latex_has_all_cells_and_no_command_that_a_name_could_be() -> None:
    text = as_latex(errors())
    lines = text.splitlines()
    assert [line for line in lines if "rule" in line and line[0] == "\\"] == [
        r"\toprule", r"\midrule", r"\bottomrule",
    ]  # fmt: skip
    rows = [line for line in lines if line.endswith(r"\\")]
    columns = len(errors().columns)
    assert [len(re.findall(r"(?<!\\)&", row)) for row in rows] == [columns - 1] * 4
    begin = r'{[}a,"b"\_\%\&\#\$\{\}\textasciitilde{}\textasciicircum{}\textbackslash{} & '
    assert rows[1].startswith(begin)
    assert r"23.33 $\pm$ 8.82" in rows[2]
    assert "& -- &" in rows[2]
    assert r"$-$1.01 to +27.68" in rows[3]
    assert lines[0] == "% clean: test error (%) after 2 steps"


def test_what_is_clear_is_bold() -> None:
    table = Table(
        name="t", title="two\nlines", columns=[("x", True)], rows=[[Cell(text="1", strong=True)]]
    )
    text = as_latex(table)
    assert r"\textbf{1} \\" in text
    assert text.startswith("% two lines\n")
