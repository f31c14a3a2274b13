"""What must be true of a job at its end, whatever was done to it."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from grawa.lab.chaos.outcome import Outcome
from grawa.lab.report.console import metric_text

_ERRORS = 3.0
"""Standard errors of a difference between two error rates that count as noise."""

_SHARE = 0.05
"""Of another metric, as a fraction of the undisturbed one."""


_NOTICE_SECONDS = 20.0
"""How much later than the timeout a fault may be noticed: on two cores at a load of 26, a process
took 17 s after its timeout to end."""

_SOMEBODY_GONE = {"kill", "stop", "host", "link", "checkpoint"}
"""Kinds of faults by which workers no longer reach each other, for which the timeout is."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a job ended with.

    Attributes:
        error: as it says itself; `None` if it did not come to its end.
        measured: the same, measured again on the saved model; `None` if there is none to measure.
        digest: of the model's bits; empty if there is no model.
        rounds: the numbers of its rounds, as they are recorded.
    """

    error: float | None = None
    measured: float | None = None
    digest: str = ""
    rounds: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that is known at the end.

    Attributes:
        outcomes: of the faults.
        undisturbed: what the job ends with when nothing is done to it.
        disturbed: what it ended with.
        metric: the name of their errors.
        noise: the largest difference between their errors that counts as noise.
        exact: whether both must end with the same bits.
        hung: why the job did not come to its end; empty if it did.
        orphans: processes that lived on without their launcher, or after the end.
        leftovers: files in shared memory and temporary folders.
        unreadable: why the run's folder can't be read; empty if it can.
        timeout: of the job's messages, in seconds.
    """

    outcomes: Sequence[Outcome]
    undisturbed: Result
    disturbed: Result
    metric: str
    noise: float
    exact: bool
    hung: str
    orphans: Sequence[str]
    leftovers: Sequence[str]
    unreadable: str
    timeout: float


def noise_of(error: float, metric: str, samples: int) -> float:
    """The largest difference between the errors of two equally good models.

    Args:
        error: the undisturbed job's.
        metric: its name.
        samples: of the test data.

    Returns:
        Three standard errors of the difference of two error rates; 5% of other metrics.

    >>> round(noise_of(0.03, "test error", 360), 4)
    0.0381
    """
    if not metric.endswith("error"):
        return _SHARE * abs(error)
    share = max(error, 1.0 / samples)  # a rate of 0 has noise, too
    return _ERRORS * math.sqrt(2.0 * share * (1.0 - share) / samples)


def broken(found: Findings) -> list[str]:
    """What is not as it must be.

    Returns:
        A sentence for each; none if all is well.
    """
    sentences = [f"fault {o.number} ({o.kind}): {o.problem}" for o in found.outcomes if o.problem]
    sentences += _late(found)
    if found.hung:
        sentences.append(f"the job did not come to its end: {found.hung}")
    sentences += [f"left behind as an orphan: {orphan}" for orphan in found.orphans]
    sentences += [f"left behind: {path}" for path in found.leftovers]
    if found.unreadable:
        sentences.append(f"the run's folder can't be read: {found.unreadable}")
    if not found.hung:
        sentences += _wrong_record(found.disturbed.rounds, found.undisturbed.rounds)
        sentences += _wrong_result(found)
    return sentences


def _late(found: Findings) -> list[str]:
    """Faults that were noticed too late: one by which somebody is gone, after the timeout."""
    limit = found.timeout + _NOTICE_SECONDS
    return [
        f"fault {o.number} ({o.kind}): noticed only after {o.noticed_seconds:.1f} s, and the "
        f"timeout is {found.timeout:.0f} s"
        for o in found.outcomes
        if o.kind in _SOMEBODY_GONE and (o.noticed_seconds or 0.0) > limit
    ]


def _wrong_record(rounds: Sequence[int], undisturbed: Sequence[int]) -> list[str]:
    """What is wrong with the record of rounds."""
    twice = sorted(number for number, times in Counter(rounds).items() if times > 1)
    missing = sorted(set(range(1, max(undisturbed, default=0) + 1)) - set(rounds))
    sentences = []
    if twice:
        sentences.append(f"rounds are recorded more than once: {_few(twice)}")
    if missing:
        sentences.append(f"rounds are missing from the record: {_few(missing)}")
    if not twice and list(rounds) != sorted(rounds):
        sentences.append("rounds are recorded in another order than they were made")
    return sentences


def _wrong_result(found: Findings) -> list[str]:
    """What is wrong with the result."""
    mine, other = found.disturbed, found.undisturbed
    if mine.error is None or other.error is None:
        return ["the job ended without a result"]
    sentences = []
    if mine.error > other.error + found.noise:
        sentences.append(f"{compared(found)}: more than noise")
    if mine.measured is not None and mine.measured != mine.error:
        said, true = (valued(found.metric, error) for error in (mine.error, mine.measured))
        sentences.append(
            f"the run says that its {found.metric} is {said}, and its model's is {true}"
        )
    if found.exact and mine.digest != other.digest:
        sentences.append("the model has other bits than the undisturbed one")
    return sentences


def compared(found: Findings) -> str:
    """Both errors in words; empty if one is not known."""
    mine, other = found.disturbed.error, found.undisturbed.error
    if mine is None or other is None:
        return ""
    here, there, noise = (valued(found.metric, value) for value in (mine, other, found.noise))
    return f"the {found.metric} is {here}, and {there} undisturbed (noise: {noise})"


def valued(metric: str, value: float) -> str:
    """A metric's value in words."""
    return metric_text({"metric": metric, "error": value})


def _few(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:5]))
    return shown if len(numbers) <= 5 else f"{shown} and {len(numbers) - 5} more"
