"""Rounds that are due by the schedule: run at once, or in the background beside local steps."""

from functools import partial

import torch

from grawa.errors import CommunicationError
from grawa.math.leaves import copied
from grawa.rounds.assembly import Assembly, GivenState, Lagging, Status
from grawa.rounds.background import Queue
from grawa.rounds.clock import Clock
from grawa.rounds.meetings import Meetings
from grawa.rounds.purposes import Purpose
from grawa.rounds.runner import Runner
from grawa.rounds.schedule import Timetable
from grawa.rounds.underway import Outcome, Underway


class DueRounds:
    """Runs the rounds that are due here.

    Args:
        meetings: where the processes meet.
        runner: runs rounds.
        timetable: which fragment is next.
        queue: orders what this process sends.
        clock: times the workers.
        assembly: brings the processes together.
        overlap_steps: for how many local steps a round may run in the background.
    """

    def __init__(
        self,
        meetings: Meetings,
        runner: Runner,
        timetable: Timetable,
        queue: Queue,
        clock: Clock,
        assembly: Assembly,
        *,
        overlap_steps: int,
    ) -> None:
        self._meetings, self._runner, self._timetable = meetings, runner, timetable
        self._queue, self._clock, self._assembly = queue, clock, assembly
        self._overlap_steps = overlap_steps
        self._underway: Underway | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether a round runs in the background."""
        return self._underway is not None

    def stepped(self) -> None:
        """Called after each local step; applies a round whose time in the background is over."""
        if self._underway is not None:
            self._underway.age += 1
            if self._underway.age >= self._overlap_steps:
                self.finish()

    def begin(self, purpose: Purpose = Purpose.ROUND) -> None:
        """Runs a round that is due, or starts it in the background if rounds overlap.

        Args:
            purpose: why this worker comes; another one if it has just joined the job.
        """
        self.finish()
        began, status = self._clock.now(), self._meetings.status()
        self._runner.reporter.local_steps_end(began)
        index, step = self._timetable.advance(self._runner.lr), status["step"]
        fragment, late = self._runner.fragments[index], self._overlap_steps > 0
        rows = self._meetings.rows(purpose, index)
        made = self._runner.roll_call.restart(index)
        before = self._runner.buffers_of(index)
        in_shadow = fragment.shadow is not None
        if fragment.shadow is not None:
            fragment.shadow.take(fragment.params)
            before = copied(before)

        def compute() -> Outcome:
            roll = self._meetings.roll_for_round(rows)
            return self._runner.run(index, roll, before, in_shadow=in_shadow, late=late)

        @torch.no_grad()
        def run() -> Outcome:
            commit = partial(self._runner.commit, index)
            outcome: Outcome = self._assembly.hold(status, compute, commit, waits=not late)
            return outcome

        if late:
            waits = self._queue.start(run)
            self._underway = Underway(index, waits, began, step, before, in_shadow, late, made)
            self._underway.exposed = self._clock.now() - began
        else:
            self._end(Underway(index, run, began, step, before, in_shadow, made=made), status)
        self._runner.reporter.local_steps_begin(self._clock.now())

    def _end(self, underway: Underway, status: Status) -> None:
        """Applies a round; unless this worker was given the state, with which it begins again."""
        try:
            self._runner.end(underway)
        except GivenState:
            self._recount(underway)
        except CommunicationError:
            self._recount(underway)
            self._timetable.load_state_dict(status["timetable"])  # so that the round is still due
            raise

    def _recount(self, underway: Underway) -> None:
        assert underway.made is not None, "it was counted when the round began"
        self._runner.roll_call.counts.take_back(underway.fragment, underway.made)

    def finish(self) -> None:
        """Waits for the round in the background, if there is one, and applies it to the workers.

        An exception from the background is raised here.
        """
        if self._underway is None:
            return
        underway, self._underway = self._underway, None
        underway.called = self._clock.now()
        self._runner.reporter.local_steps_end(underway.called)
        try:
            self._runner.end(underway)
        except Lagging:  # the others have gone on without this worker, which now waits for them
            self._recount(underway)
            self._meetings.join()
        self._runner.reporter.local_steps_begin(self._clock.now())
