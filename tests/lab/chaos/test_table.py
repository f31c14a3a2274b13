"""The table of faults, and what is said of them."""

from dataclasses import replace

import pytest
from rich.console import Console

from grawa.lab.chaos.table import ending_lines, fault_table, line_of
from grawa.lab.report.tables import as_rich
from tests.lab.chaos.outcomes import FINDINGS, GOOD, HUNG, RESULT


def test_a_row_has_what_was_measured_of_a_fault() -> None:
    good, hung = ([cell.text for cell in row] for row in fault_table([GOOD, HUNG]).rows)
    assert good == ["1", "kill", "worker 2", "40", "1280", "0.0 s", "7.2 s", "320", "1"]
    assert hung[6] == "never"


def test_no_word_but_a_files_name_is_broken_at_80_columns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    victim = "save-000034-round-00000330/shared.pt, worker 0"
    damaged = replace(GOOD, kind="checkpoint", victim=victim, recovered_seconds=104.2)
    Console(width=80).print(as_rich(fault_table([damaged, replace(GOOD, victim="host 1")])))
    printed = capsys.readouterr().out
    for whole in ("checkpoint", "recovered", "restarts", "104.2 s", "host 1", "1280"):
        assert whole in printed


def test_a_fault_is_told_in_one_line() -> None:
    assert line_of(GOOD, 20) == (
        "fault 1/20: kill, worker 2; after round 40; noticed after 0.0 s; recovered after 7.2 s; "
        "320 steps lost"
    )
    assert line_of(HUNG, 20).endswith("no round within 105 s after it")
    ended = replace(GOOD, recovered_seconds=None, steps_lost=0, starts=0)
    assert line_of(ended, 20).endswith("the job ended before all workers were back")
    assert fault_table([ended]).rows[0][6].text == "ended"


def test_the_end_names_both_errors_and_faults_that_were_not_made() -> None:
    few, errors = ending_lines(FINDINGS, 3)
    assert few.startswith("1 of 3 faults were made")
    assert errors.startswith("the test error is 3.00%, and 3.00% undisturbed")
    assert errors.endswith("the same bits")
    other = replace(FINDINGS, disturbed=replace(RESULT, digest="b"))
    assert ending_lines(other, 1)[0].endswith("other bits")
