"""A job under faults, one after another, and what came of each."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from grawa.lab.chaos.faults import Arena, NotNowError, Struck, strike
from grawa.lab.chaos.job import Job
from grawa.lab.chaos.outcome import Outcome
from grawa.lab.chaos.plan import Planned
from grawa.lab.chaos.programs import is_alive
from grawa.lab.chaos.watch import Mark, Watch

_LOOK_SECONDS = 0.02
_UNNOTICED_SECONDS = 10.0
"""So much later than the timeout a fault that nobody notices is undone, such as labels that the
guard finds good enough."""

_AFTER_NOTICE_SECONDS = 1.0


class HungError(Exception):
    """The job makes no rounds, and can't be brought to make any."""


def to_its_end(job: Job, watch: Watch, seconds: float) -> None:
    """Lets a job run to its end, undisturbed from now on.

    Args:
        job: the job.
        watch: its record.
        seconds: how long it may take for a round, a start or its end.

    Raises:
        HungError: if it takes longer, or has failed for good.
    """
    last, since = watch.mark(), time.monotonic()
    while not job.over:
        _look(job, watch)
        if watch.mark() != last:
            last, since = watch.mark(), time.monotonic()
        if job.failure or time.monotonic() > since + seconds:
            raise HungError(job.failure or f"it made no round for {seconds:.0f} s")
    watch.look()


def _look(job: Job, watch: Watch) -> None:
    time.sleep(_LOOK_SECONDS)
    job.tend()
    watch.look()


@dataclass(kw_only=True)
class Campaign:
    """Faults for a job.

    Attributes:
        arena: what they are done to.
        watch: the job's record.
        rounds: of the undisturbed job.
        seconds: within which it must make rounds again after a fault's end.
        tell: called with each outcome.
        outcomes: of the faults that were made.
    """

    arena: Arena
    watch: Watch
    rounds: int
    seconds: float
    tell: Callable[[Outcome], None]
    outcomes: list[Outcome] = field(default_factory=list)
    _mark: Mark = field(init=False)
    _moment: float = field(init=False)
    _processes: dict[int, str] = field(init=False)

    def run(self, faults: Sequence[Planned]) -> None:
        """Makes the faults, and lets the job run to its end, which may come before the last ones.

        Args:
            faults: in the order in which they come; `HungError` if the job can't be brought to make
                rounds again.
        """
        self.arena.job.start()
        for planned in faults:
            struck = self._when_due(planned)
            if struck is None:
                break
            self.outcomes.append(self._follow(planned, struck))
            self.tell(self.outcomes[-1])
        to_its_end(self.arena.job, self.watch, self.seconds)

    def _when_due(self, planned: Planned) -> Struck | None:
        """Waits for a fault's moment, and makes it; `None` if the job ends before."""
        job, watch = self.arena.job, self.watch
        due, last, since = planned.moment * self.rounds, watch.mark(), time.monotonic()
        while True:
            _look(job, watch)
            if job.over or watch.finished:
                return None
            if watch.mark() != last:
                last, since = watch.mark(), time.monotonic()
            if job.failure or time.monotonic() > since + self.seconds:
                raise HungError(job.failure or f"it made no round for {self.seconds:.0f} s")
            if watch.round < due or watch.round <= watch.continued_from:
                continue
            job.settled()
            time.sleep(planned.within * min(1.0, watch.round_seconds))
            watch.look()
            job.logs.new_lines()
            self._mark, self._processes = watch.mark(), self._running()
            self._moment = time.monotonic()
            try:
                return strike(planned, self.arena)
            except NotNowError:
                continue

    def _running(self) -> dict[int, str]:
        workers = {worker.pid: f"worker {i}" for i, worker in self.arena.job.workers().items()}
        launchers = self.arena.job.launchers().items()
        return workers | {pid: f"the launcher of host {host}" for host, pid in launchers}

    def _follow(self, planned: Planned, struck: Struck) -> Outcome:
        """Follows a fault until the job has recovered."""
        noticed, by = None, ""
        undone, since = 0.0, self._mark
        pending = struck.undo
        while True:
            _look(self.arena.job, self.watch)
            passed = time.monotonic() - self._moment
            if noticed is None and (by := self._reaction(struck)):
                noticed = passed
            if pending is not None and passed >= self._end_of(struck, noticed):
                pending()
                pending, undone, since = None, passed, self.watch.mark()
            seen = struck.worker is None or noticed is not None or undone > 0.0
            gone = self.watch.goes_on_since(since) and seen
            if pending is None and (gone or self.arena.job.over or self.watch.finished):
                recovered = passed if gone else None
                return self._outcome(planned, struck, (noticed, by), recovered, undone)
            if self.arena.job.failure or passed > undone + self.seconds:
                return self._hung(planned, struck, (noticed, by), undone)

    def _end_of(self, struck: Struck, noticed: float | None) -> float:
        """Seconds after a fault at which it is undone."""
        if struck.after is not None:
            return struck.after
        if noticed is None:
            return self.arena.timeout + _UNNOTICED_SECONDS
        return noticed + _AFTER_NOTICE_SECONDS

    def _reaction(self, struck: Struck) -> str:
        """What the job did because of a fault, in words; empty if nothing yet."""
        if struck.ended >= self._processes.keys():
            return ""  # nobody is left
        if struck.worker is not None:
            why = self.watch.left_out_after(self._mark.round, struck.worker)
            return f"left out: {why}" if why else ""
        if not self.arena.job.launchers() and self.watch.round > self._mark.round:
            for worker, why in self.watch.left_out.items():
                return f"worker {worker} left out: {why}"
        for line in self.arena.job.logs.new_lines():
            return line.strip()
        for pid, name in self._processes.items():
            if pid not in struck.ended and not is_alive(pid):
                return f"{name} ended"
        return ""

    def _outcome(
        self,
        planned: Planned,
        struck: Struck,
        noticed: tuple[float | None, str],
        recovered: float | None,
        undone: float,
        problem: str = "",
    ) -> Outcome:
        return Outcome(
            number=planned.number,
            kind=planned.kind,
            victim=struck.victim,
            round=self._mark.round,
            step=self._mark.step,
            noticed_seconds=noticed[0],
            noticed_by=noticed[1],
            recovered_seconds=recovered,
            lasted_seconds=undone,
            steps_lost=self.watch.lost_since(self._mark),
            starts=self.watch.starts - self._mark.starts,
            problem=problem,
        )

    def _why_hung(self) -> str:
        said = self.arena.job.failure or f"the last error: {self.arena.job.logs.last_error()}"
        return f"no round within {self.seconds:.0f} s after it; {said}"

    def _hung(
        self, planned: Planned, struck: Struck, noticed: tuple[float | None, str], undone: float
    ) -> Outcome:
        """Ends a job that does not recover by itself, and continues it by hand."""
        job = self.arena.job
        if job.failure:
            raise HungError(job.failure)
        outcome = self._outcome(planned, struck, noticed, None, undone, self._why_hung())
        job.end()
        job.start()
        return outcome
