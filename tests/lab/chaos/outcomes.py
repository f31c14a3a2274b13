"""What came of made-up faults."""

from dataclasses import replace

from grawa.lab.chaos.outcome import Outcome
from grawa.lab.chaos.verdict import Findings, Result

GOOD = Outcome(
    number=1,
    kind="kill",
    victim="worker 2",
    round=40,
    step=1280,
    noticed_seconds=0.04,
    noticed_by="worker 0 ended",
    recovered_seconds=7.25,
    lasted_seconds=0.0,
    steps_lost=320,
    starts=1,
)

HUNG = replace(GOOD, number=2, recovered_seconds=None, problem="no round within 105 s after it")

LATE = replace(GOOD, number=3, noticed_seconds=36.0)

RESULT = Result(error=0.03, measured=0.03, digest="a" * 64, rounds=range(1, 101))

FINDINGS = Findings(
    outcomes=[GOOD],
    undisturbed=RESULT,
    disturbed=RESULT,
    metric="test error",
    noise=0.02,
    exact=True,
    hung="",
    orphans=[],
    leftovers=[],
    unreadable="",
    timeout=15.0,
)
