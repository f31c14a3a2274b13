"""The table of faults, and the sentences below it."""

from collections.abc import Sequence

from grawa.lab.chaos.outcome import Outcome
from grawa.lab.chaos.verdict import Findings, compared
from grawa.lab.report.tables import Cell, Table

_COLUMNS = (
    ("", True),
    ("fault", False),
    ("to", False),
    ("round", True),
    ("step", True),
    ("noticed after", True),
    ("recovered after", True),
    ("steps lost", True),
    ("restarts", True),
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
        name="faults",
        title="Faults, one after another",
        columns=_COLUMNS,
        rows=[_row(outcome) for outcome in outcomes],
        note="noticed: the job printed a line, or a process ended, or a worker was left out; - if "
        "the job only had to wait. recovered: a round that began after the fault, and after its "
        "end, was complete, with all workers; or the job ended before. steps lost: of each "
        "worker, undone by a restart. restarts: of the job, by its launchers or the scheduler.",
        printed=True,
    )


def _row(outcome: Outcome) -> list[Cell]:
    bad = bool(outcome.problem)
    return [
        _number(outcome.number, str(outcome.number)),
        Cell(text=outcome.kind, strong=bad),
        Cell(text=shortened(outcome.victim)),
        _number(outcome.round, str(outcome.round)),
        _number(outcome.step, str(outcome.step)),
        _seconds(outcome.noticed_seconds, "-"),
        _seconds(outcome.recovered_seconds, "never" if bad else "ended"),
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
    elif not outcome.problem:
        parts.append("the job ended before all workers were back")
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
    if said := compared(found):
        mine, other = found.disturbed.digest, found.undisturbed.digest
        bits = "the same bits" if mine == other else "other bits"
        lines.append(f"{said}; the model has {bits}" if mine else said)
    return lines
