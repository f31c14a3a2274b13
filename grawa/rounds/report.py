"""The report of a round, for callbacks, logs, progress and plots."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import isfinite, isnan
from typing import Any

from torch import Tensor

from grawa.rounds.attendance import Absence
from grawa.rounds.measured import Measured
from grawa.rounds.underway import Outcome, Underway
from grawa.warn import warn

_COSTS = ("bytes_sent", "compute_seconds", "wait_seconds", "round_seconds", "exposed_seconds")


_MOST_SHOWN = 8
"""Workers whose numbers are shown one by one."""


@dataclass(frozen=True, kw_only=True, repr=False)
class RoundReport:
    """One round; the same on every process, except for seconds and bytes, which are its own.

    Attributes:
        round: its number, from 1; each fragment's round counts.
        fragment: which fragment was synchronised, from 0.
        step: local steps when it began; with several hosted workers, of the one that has made the
            most.
        weights: (N, G), columns sum to 1; `None` if the workers count equally, or have no weights.
        scores: (N, G), as reported; `None` if the strategy has no score.
        losses: (N,), mean training loss since the last round, and of earlier steps if these are
            fewer than 32; NaN if it is not known.
        steps_made: (N,), local steps of each worker since the last round.
        consensus_distance: root mean square, over the workers that take part, of the L2 distance
            to the round's center, before the pull; `None` if not measured, or if the round takes
            no mean.
        left_out: worker -> why it has no part in the center.
        bytes_sent: since the last round, or the start, and in this round; per hosted worker.
            Messages to measure or save the consensus are not counted.
        elapsed: seconds since the start, by worker 0's clock, when it began; the same everywhere.
        compute_seconds: since the last round began, without the time for which that one blocked
            local steps.
        wait_seconds: from the start of the round until the last worker had joined it.
        round_seconds: the whole round, with the wait, until its result is applied.
        exposed_seconds: for how long it blocked local steps: all of it, or with `overlap_steps`
            the part that did not fit into the overlap.
        absences: the workers that are left out, with since when, and how often.
        stopping: whether a process has asked, before the round, that training ends.
        overlapped_steps: local steps that were made while it ran in the background, before its
            result reached the workers.
        center_cosine: of the angle between the move of the center in this round and in the
            fragment's last one: near 1 if the center keeps its direction, negative if it goes back
            and forth. `None` if not measured, in the first round (of this process, if training was
            resumed), and for a strategy that keeps no center.
        displacement_spread: standard deviation over mean of the displacements' L2 norms: 0 if all
            workers that take part are equally far from the center of the last round. `None` if
            not measured, for one worker, and for a strategy that keeps no center. Of a fragment
            with more than 16,384 parameters, both are computed from a random sample of so many.
    """

    round: int
    fragment: int
    step: int
    weights: Tensor | None
    scores: Tensor | None
    losses: Tensor
    steps_made: Tensor
    consensus_distance: float | None
    left_out: dict[int, str]
    bytes_sent: int
    elapsed: float
    compute_seconds: float
    wait_seconds: float
    round_seconds: float
    exposed_seconds: float
    absences: dict[int, Absence] = field(default_factory=dict)
    stopping: bool = False
    overlapped_steps: int = 0
    center_cosine: float | None = None
    displacement_spread: float | None = None

    def __repr__(self) -> str:
        parts = [f"round {self.round}", f"step {self.step}"]
        for name in ("losses", "weights"):
            if shown := _shown(getattr(self, name)):
                parts.append(f"{name} {shown}")
        if self.consensus_distance is not None:
            parts.append(f"consensus distance {self.consensus_distance:.3g}")
        parts.append(f"{self.round_seconds:.3g} s with {self.wait_seconds:.3g} s of waiting")
        parts += [f"without worker {worker} ({why})" for worker, why in self.left_out.items()]
        return f"RoundReport({', '.join(parts)})"

    @property
    def applied_step(self) -> int:
        """Local steps when its result reached the workers, and it was reported."""
        return self.step + self.overlapped_steps

    def as_scalars(self, prefix: str = "grawa/") -> dict[str, float]:
        """Its numbers by name, for a tracker; log them at `applied_step`.

        Args:
            prefix: before each name.

        Returns:
            name -> value; those that are not known or not finite are left out. Weights and scores
            are means over groups, as `grawa/weights/worker0`.
        """
        named = {"round": float(self.round), "left_out": float(len(self.left_out))}
        for name in ("weights", "scores", "losses"):
            rows = getattr(self, name)
            for worker, row in enumerate(() if rows is None else rows):
                named[f"{name}/worker{worker}"] = float(row.mean())
        for name in Measured._fields:
            if (value := getattr(self, name)) is not None:
                named[name] = value
        for name in _COSTS:
            named[f"cost/{name}"] = float(getattr(self, name))
        return {f"{prefix}{name}": value for name, value in named.items() if isfinite(value)}

    def as_json(self) -> dict[str, Any]:
        """Plain numbers, lists and strings; numbers that are not finite become `None`."""
        plain = {name: _plain(value) for name, value in vars(self).items()}
        return {
            **plain,
            "left_out": {str(k): why for k, why in self.left_out.items()},
            "absences": {str(k): vars(absence) for k, absence in self.absences.items()},
        }


def _shown(rows: Tensor | None) -> str:
    """A number of each worker, or the range of many; empty if none is known."""
    means = [] if rows is None else [float(row.mean()) for row in rows]
    known = [mean for mean in means if not isnan(mean)]
    if len(means) > _MOST_SHOWN and known:
        return f"{min(known):.3g} to {max(known):.3g}"
    return " ".join(f"{mean:.3g}" for mean in means) if known else ""


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not (abs(value) < float("inf")):
        return None
    return value


OnRound = Callable[[RoundReport], None]
"""Called after each round."""


def warn_of_absences(report: RoundReport) -> None:
    """Warns of a worker that has been left out for long, once for each time out."""
    for worker, absence in report.absences.items():
        if absence.is_due:
            warn(f"worker {worker} {absence}")


class Reporter:
    """Keeps time and counts bytes between round reports."""

    def __init__(self) -> None:
        self._bytes_before = 0
        self._free_since = 0.0
        self._computed = 0.0

    def local_steps_begin(self, now: float) -> None:
        """Called when the workers begin to train between rounds."""
        self._free_since = now

    def local_steps_end(self, now: float) -> None:
        """Called when a round blocks the workers."""
        self._computed += now - self._free_since

    def disregard(self, bytes_sent: int) -> None:
        """Leaves these bytes, sent since the last round, out of the next report."""
        self._bytes_before += bytes_sent

    def report(
        self,
        round_number: int,
        underway: Underway,
        outcome: Outcome,
        absences: dict[int, Absence],
        bytes_sent: int,
    ) -> RoundReport:
        """The report of a round that is over.

        Args:
            round_number: its number.
            underway: the round as it began.
            outcome: its result.
            absences: workers that were left out.
            bytes_sent: since the start.

        Returns:
            The report.
        """
        roll, found = outcome.roll, outcome.measured or Measured()
        report = RoundReport(
            round=round_number,
            fragment=underway.fragment,
            step=underway.step,
            weights=outcome.weights,
            scores=roll.health.scores,
            losses=roll.health.losses,
            steps_made=roll.new_steps,
            **found._asdict(),
            left_out=outcome.verdict.left_out,
            absences=absences,
            bytes_sent=bytes_sent - self._bytes_before,
            elapsed=roll.elapsed,
            compute_seconds=self._computed,
            wait_seconds=outcome.joined - underway.began,
            round_seconds=max(outcome.finished - underway.began, underway.exposed),
            exposed_seconds=underway.exposed,
            stopping=roll.stopping,
            overlapped_steps=underway.age,
        )
        self._bytes_before = bytes_sent
        self._computed = 0.0
        return report
