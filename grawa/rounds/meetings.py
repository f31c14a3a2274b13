"""Meetings of all processes, which may call for different purposes; all agree which goes first."""

from typing import NamedTuple

import torch
from torch import Tensor

from grawa.errors import UserError
from grawa.math.leaves import Rows
from grawa.rounds.assembly import Assembly, GivenState, Status
from grawa.rounds.background import Queue
from grawa.rounds.clock import Clock
from grawa.rounds.purposes import ROUNDS, WHOLE, Purpose, served
from grawa.rounds.roll_call import Roll
from grawa.rounds.runner import Runner
from grawa.rounds.schedule import Timetable
from grawa.rounds.underway import Outcome, Underway
from grawa.workers.replicas import Replicas


class Met(NamedTuple):
    """What came of a meeting."""

    roll: Roll
    action: Purpose
    """What was done."""
    outcome: Outcome | None = None
    """Of the round, if there was one."""
    consensus: dict[str, Tensor] | None = None
    """If it was asked for."""


class Meetings:
    """Meets the other processes in a roll call, and takes part in what they have called for.

    Args:
        replicas: the hosted workers.
        runner: runs rounds.
        timetable: which fragment is next.
        queue: orders what this process sends.
        clock: times the workers.
        assembly: brings the processes together.
    """

    def __init__(
        self,
        replicas: Replicas,
        runner: Runner,
        timetable: Timetable,
        queue: Queue,
        clock: Clock,
        assembly: Assembly,
    ) -> None:
        self._replicas, self._runner, self._timetable = replicas, runner, timetable
        self._queue, self._clock, self._assembly = queue, clock, assembly

    def status(self) -> Status:
        """What a worker that comes must know to be where this one is before its next meeting."""
        runner = self._runner
        return {
            "step": max(runner.roll_call.counts.steps),
            "timetable": self._timetable.state_dict(),
            **runner.status(),
        }

    def adopt(self, status: Status) -> None:
        """Takes over the numbers of a worker that is where this one is to be."""
        runner = self._runner
        runner.adopt(status)
        self._timetable.load_state_dict(status["timetable"])
        counts = runner.roll_call.counts
        counts.steps = [status["step"]] * len(counts.steps)

    def join(self) -> bool:
        """Starts the job with the others, or gets their state if they are further.

        Returns:
            Whether this worker is new in a job that is under way.
        """
        status = self.status()
        return self._queue.run(lambda: self._assembly.join(status))

    def start(self) -> bool:
        """As `join`, before the first local step."""
        is_new = self.join()
        for fragment in self._runner.fragments if self._assembly.is_elastic else ():
            fragment.settled(late=False)
        return is_new

    def meet(self, purpose: Purpose, value: float = 0.0) -> Met:
        """Repeats the roll call until this purpose is served; joins what goes first.

        A worker that has just come joins one thing that the others have called for.

        Returns:
            What came of it when it was served.
        """
        rows: Tensor | None = None
        called = self._clock.now()
        while True:
            began, index = self._clock.now(), self._timetable.fragment
            rows = self.rows(purpose, index, value) if rows is None else rows
            try:
                met = self._hold(purpose, index, rows)
            except GivenState:
                rows = None
                continue
            is_last = met.action is purpose or purpose is Purpose.JOINING
            if met.action is not Purpose.CONSENSUS:
                rows = None
            if met.action is Purpose.ROUND:
                self._timetable.advance(self._runner.lr)
            elif met.action in (Purpose.SYNCHRONIZE, Purpose.LEAVING):
                self._timetable.next_fragment()
            if met.outcome is not None:
                self._end(index, met.outcome, called if is_last else began)
            if is_last:
                return met

    def _hold(self, purpose: Purpose, index: int, rows: Tensor) -> Met:
        """One meeting, after the round under way."""
        status = self.status()

        def commit(met: Met) -> None:
            if met.outcome is not None:
                self._runner.commit(index)

        def hold() -> Met:
            with torch.no_grad():
                return self._assembly.hold(
                    status,
                    lambda: self._serve(purpose, index, rows),
                    commit,
                    ending=purpose is Purpose.LEAVING,
                )

        return self._queue.run(hold)

    def _serve(self, purpose: Purpose, index: int, rows: Tensor) -> Met:
        """The roll call, and what is done after it."""
        roll, action = self.answered(rows)
        if action in ROUNDS and len(roll.kinds) > 1:
            self._runner.symptoms.note_waiting(roll)
            rows = rows if purpose in WHOLE else self.rows(action, index)
            roll, _ = self.answered(rows)  # again: now everyone reports what a round needs
        if action in ROUNDS or (action is Purpose.LEAVING and bool((roll.new_steps > 0).any())):
            return Met(roll, action, outcome=self._round(index, roll))
        if action is Purpose.CONSENSUS:
            return Met(roll, action, consensus=self._runner.consensus(roll))
        return Met(roll, action)

    def answered(self, rows: Tensor) -> tuple[Roll, Purpose]:
        """One roll call, and what all processes do next; from the thread that sends."""
        roll = self._runner.roll_call.call(rows)
        return roll, served(roll.purposes, roll.steps, roll.rounds)

    def roll_for_round(self, rows: Tensor) -> Roll:
        """The roll call of a round that is due here, from the thread that the round runs in."""
        roll, _ = self.answered(rows)
        if len(roll.kinds) > 1:
            self._runner.symptoms.note_waiting(roll)
            roll, _ = self.answered(rows)  # again: now all report what a round needs
        return roll

    def rows(self, purpose: Purpose, fragment: int, value: float = 0.0) -> Tensor:
        """What the hosted workers report, after checking that they can take part.

        Returns:
            Their rows; with scores and buffers only where a round needs them.

        Raises:
            UserError: if they can't take part; the other processes raise too.
        """
        if purpose in WHOLE or purpose is Purpose.CONSENSUS:
            try:
                self._check()
            except UserError:
                self.tell_failure(fragment)
                raise
        elapsed = self._clock.now()  # before scores take their time
        if purpose in WHOLE and self._runner.roll_call.has_new_steps(fragment):
            self._clock.scored()
        values = self._runner.digests() if purpose in WHOLE else value
        return self._runner.roll_call.rows(
            purpose, fragment, rounds=self._runner.round, elapsed=elapsed, values=values
        )

    def _check(self) -> None:
        """Refuses, before a round, models and optimizers that would make it wrong."""
        self._replicas.identity.check()
        self._runner.local_steps.catch_up()
        if self._runner.round == 0:
            self._replicas.check_optimizer_state()
        self._runner.optimizer_state.check()

    def _round(self, index: int, roll: Roll) -> Outcome:
        """A round after its roll call: on the parameters themselves, if they must not wait."""
        before, elastic = self._runner.buffers_of(index), self._assembly.is_elastic
        shadow = self._runner.fragments[index].shadow
        if elastic and shadow is not None:
            shadow.take(self._runner.fragments[index].params)
        return self._runner.run(index, roll, before, in_shadow=elastic, late=False)

    def _end(self, index: int, outcome: Outcome, began: float) -> None:
        """Applies a round to workers that have waited for it."""
        self._runner.roll_call.restart(index)
        elastic, step = self._assembly.is_elastic, max(self._runner.roll_call.counts.steps)
        self._runner.end(Underway(index, lambda: outcome, began, step, Rows(), in_shadow=elastic))

    def tell_failure(self, fragment: int) -> None:
        """Tells the others that this process can't go on, so that all raise."""
        if self._assembly.is_elastic:  # they go on without it
            self._assembly.abandon()
            return
        now, rounds = self._clock.now(), self._runner.round
        rows = self._runner.roll_call.rows(Purpose.FAILED, fragment, rounds=rounds, elapsed=now)
        self._queue.run(lambda: self._runner.roll_call.call(rows))
