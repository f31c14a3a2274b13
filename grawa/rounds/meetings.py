"""Meetings of all processes, which may call for different purposes; all agree which goes first."""

from torch import Tensor

from grawa.errors import UserError
from grawa.rounds.background import Queue
from grawa.rounds.clock import Clock
from grawa.rounds.purposes import ROUNDS, WHOLE, Purpose, served
from grawa.rounds.roll_call import Roll
from grawa.rounds.runner import Runner
from grawa.rounds.schedule import Timetable
from grawa.rounds.underway import Underway
from grawa.workers.replicas import Replicas


class Meetings:
    """Meets the other processes in a roll call, and takes part in what they have called for.

    Args:
        replicas: the hosted workers.
        runner: runs rounds.
        timetable: which fragment is next.
        queue: orders what this process sends.
        clock: times the workers.
    """

    def __init__(
        self,
        replicas: Replicas,
        runner: Runner,
        timetable: Timetable,
        queue: Queue,
        clock: Clock,
    ) -> None:
        self._replicas, self._runner, self._timetable = replicas, runner, timetable
        self._queue, self._clock = queue, clock

    def meet(self, purpose: Purpose, value: float = 0.0) -> Roll:
        """Repeats the roll call until this purpose is served; joins what goes first.

        Returns:
            What all workers reported when it was served.
        """
        rows: Tensor | None = None
        while True:
            began, index = self._clock.now(), self._timetable.fragment
            rows = self.rows(purpose, index, value) if rows is None else rows
            roll, action = self.call(rows)
            if action in ROUNDS and len(set(roll.purposes)) > 1:
                self._runner.symptoms.note_waiting(roll)
                rows = rows if purpose in WHOLE else self.rows(action, index)
                roll, _ = self.call(rows)  # again: now everyone reports what a round needs
            if action is purpose:
                return roll
            if action is Purpose.CONSENSUS:
                self._runner.consensus(roll)
                continue  # with the same report
            rows = None
            if action is Purpose.ROUND:
                self.run_here(self._timetable.advance(self._runner.lr), began, roll)
            else:
                self.run_here(self._timetable.next_fragment(), began, roll)

    def call(self, rows: Tensor) -> tuple[Roll, Purpose]:
        """One roll call, after the round under way; and what all processes do next."""
        return self._queue.run(lambda: self.answered(rows))

    def answered(self, rows: Tensor) -> tuple[Roll, Purpose]:
        """As `call`, from the thread that the round runs in."""
        roll = self._runner.roll_call.call(rows)
        return roll, served(roll.purposes, roll.steps, roll.rounds)

    def roll_for_round(self, rows: Tensor) -> Roll:
        """The roll call of a round that is due here, from the thread that the round runs in."""
        roll, _ = self.answered(rows)
        if len(set(roll.purposes)) > 1:
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

    def run_here(self, index: int, began: float, roll: Roll) -> None:
        """Runs a round after its roll call, on the parameters themselves, not on a copy."""
        self._runner.roll_call.restart(index)
        before = self._runner.buffers_of(index)
        outcome = self._runner.run(index, roll, before, in_shadow=False)
        self._runner.end(
            Underway(index, lambda: outcome, began, max(self._runner.roll_call.steps), before)
        )

    def tell_failure(self, fragment: int) -> None:
        """Tells the others that this process can't go on, so that all raise."""
        now, rounds = self._clock.now(), self._runner.round
        rows = self._runner.roll_call.rows(Purpose.FAILED, fragment, rounds=rounds, elapsed=now)
        self._queue.run(lambda: self._runner.roll_call.call(rows))
