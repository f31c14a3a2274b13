"""What a run shows of itself while it goes on, also in a narrow terminal, and with many workers."""

from io import StringIO

import pytest
import torch
from rich.console import Console

from grawa import RoundReport
from grawa.lab.report.round_progress import RoundProgress, describe_round


def report(number: int, workers: int = 4, left_out: dict[int, str] | None = None) -> RoundReport:
    return RoundReport(
        round=number, fragment=0, step=32 * number, bytes_sent=1000,
        weights=torch.full((workers, 1), 1.0 / workers), scores=None,
        losses=torch.ones(workers), steps_made=torch.full((workers,), 32),
        consensus_distance=1.0, left_out=left_out or {}, elapsed=10.0 * number,
        compute_seconds=1.0, wait_seconds=0.0, round_seconds=0.1, exposed_seconds=0.1,
    )  # fmt: skip


def shown(
    *reports: RoundReport, budget: float | None = None, modelled: bool = False, terminal: int = 0
) -> str:
    """What is printed; in a terminal with so many columns, if not 0."""
    file = StringIO()
    console = Console(file=file, width=terminal or 200, force_terminal=terminal > 0)
    steps = 320 if budget is None else None
    with RoundProgress(steps, budget, modelled, console) as progress:
        for each in reports:
            progress.show(each)
    return file.getvalue()


@pytest.mark.parametrize("columns", [60, 120])
def test_step_and_time_left_are_seen_at_any_width(columns: int) -> None:
    last = shown(report(1), report(2), terminal=columns).splitlines()[-2]
    assert "step 64/320" in last
    assert " left" in last
    assert ("distance" in last) == (columns == 120)


def test_a_budget_is_counted_in_seconds_that_are_called_what_they_are() -> None:
    assert shown(report(1), budget=90.0).startswith("10/90 seconds  round 1  loss 1.000")
    assert "20/90 modelled seconds" in shown(report(1), report(2), budget=90.0, modelled=True)


def test_many_workers_are_summed_up() -> None:
    assert "weights ▅▅▅▅  " in describe_round(report(1), 0)
    few, many = report(1, 16), report(1, 17)
    assert f"weights {'▅' * 16}  " in describe_round(few, 0)
    assert "weights 1.00 to 1.00 of 1/17, median 1.00  " in describe_round(many, 0)


def test_workers_that_are_left_out_for_one_reason_share_a_line() -> None:
    far = dict.fromkeys((2, 0), "loss is far above the median")
    lines = shown(report(1, 4, {**far, 1: "not finite"}), report(2)).splitlines()
    assert lines[:2] == [
        "round 1: workers 0, 2 left out: loss is far above the median",
        "round 1: worker 1 left out: not finite",
    ]
    assert "round 2: workers 0, 1, 2 take part again" in lines
    far = dict.fromkeys(range(20), "loss is far above the median")
    assert shown(report(1, 64, far)).startswith("round 1: 20 workers left out: loss is far")
