"""What came of a fault."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A fault, and what came of it.

    Attributes:
        number: of the fault, from 1.
        kind: of `grawa.lab.chaos.plan.KINDS`.
        victim: who or what was hit.
        round: the last round before it.
        step: local steps of each worker at that round.
        noticed_seconds: from the fault until the job reacted; `None` if it did not, as it need not
            if it only had to wait.
        noticed_by: the line that it printed, or which process ended.
        recovered_seconds: from the fault until a round that began after it, and after its end if it
            has one, was completed with all workers; `None` if the job ended before, or if none was.
        lasted_seconds: from the fault until it was undone; 0 if it needs no undoing.
        steps_lost: local steps of each worker that were made before the fault, counted at rounds,
            and that are in no later state.
        starts: how often the job was started again until then, by its launchers or the scheduler.
        problem: what went wrong that may not; empty if nothing.
    """

    number: int
    kind: str
    victim: str
    round: int
    step: int
    noticed_seconds: float | None
    noticed_by: str
    recovered_seconds: float | None
    lasted_seconds: float
    steps_lost: int
    starts: int
    problem: str = ""
