"""The table of faults, and the sentences below it."""

from collections.abc import Sequence

from grawa.lab.chaos.outcome import Outcome
from grawa.lab.chaos.verdict import Findings
from grawa.lab.report.tables import Cell, Table

_COLUMNS = (
    ("", True),
    ("fault", False),
    ("to", False),
    ("round", True),
    ("noticed after", True),
    ("recovered after", True),
    ("steps lost", True),
    ("starts", True),
)

_MOST_LETTERS = 46


def fault_table(outcomes: Sequence[Outcome]) -> Table:
    """A row for each fault.

    Args:
        outcomes: in their order.

    Returns:
        The table.
    """
    return Table(
        title="Faults, one after another",
        columns=_COLUMNS,
        rows=[_row(outcome) for outcome in outcomes],
        note="noticed: the job printed a line, or a process ended. recovered: a round that began "
        "after the fault, and after its end, was complete, with all workers. steps lost: of each "
        "worker, undone by a restart. starts: of the job, by its launchers or the scheduler.",
        printed=True,
    )


def _row(outcome: Outcome) -> list[Cell]:
    bad = bool(outcome.problem)
    return [
        _number(outcome.number, str(outcome.number)),
        Cell(text=outcome.kind, strong=bad),
        Cell(text=shortened(outcome.victim)),
        _number(outcome.round, str(outcome.round)),
        _seconds(outcome.noticed_seconds, "not"),
        _seconds(outcome.recovered_seconds, "never"),
        _number(outcome.steps_lost, str(outcome.steps_lost)),
        _number(outcome.starts, str(outcome.starts)),
    ]


def _number(value: float, text: str) -> Cell:
    return Cell(text=text, value=float(value))


def _seconds(value: float | None, none: str) -> Cell:
    return Cell(text=none) if value is None else _number(value, f"{value:.1f} s")


def shortened(text: str) -> str:
    """A text without its middle, if it is long.

    Returns:
        The text.

    >>> shortened("save-000002-round-00000020/worker-0.safetensors, worker 3, and more")
    'save-000002-round-000...ensors, worker 3, and more'
    """
    if len(text) <= _MOST_LETTERS + 4:
        return text
    half = _MOST_LETTERS // 2
    return f"{text[: half - 2]}...{text[-half - 3 :]}"


def line_of(outcome: Outcome, faults: int) -> str:
    """A fault in one line, as it is told while the job goes on."""
    parts = [f"fault {outcome.number}/{faults}: {outcome.kind}, {outcome.victim}"]
    parts.append(f"after round {outcome.round}")
    if outcome.noticed_seconds is not None:
        parts.append(f"noticed after {outcome.noticed_seconds:.1f} s")
    if outcome.recovered_seconds is not None:
        parts.append(f"recovered after {outcome.recovered_seconds:.1f} s")
    if outcome.starts:
        parts.append(f"{outcome.steps_lost} steps lost")
    if outcome.problem:
        parts.append(outcome.problem)
    return "; ".join(parts)


def ending_lines(found: Findings, faults: int) -> list[str]:
    """What is said below the table.

    Args:
        found: at the end.
        faults: how many were planned.

    Returns:
        Sentences.
    """
    lines = []
    if len(found.outcomes) < faults:
        lines.append(
            f"{len(found.outcomes)} of {faults} faults were made: the job was over before the "
            "others; give it more --steps"
        )
    mine, other = found.disturbed, found.undisturbed
    if mine.error is not None and other.error is not None:
        same = "the same bits" if mine.digest and mine.digest == other.digest else "other bits"
        bits = f"; the model has {same}" if mine.digest else ""
        lines.append(
            f"final error {mine.error:.4g}, and {other.error:.4g} undisturbed (noise: "
            f"{found.noise:.2g}){bits}"
        )
    return lines
