"""The engine: counts local steps, makes the rounds that are due, and serves what others ask for."""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from grawa.comm.participants import Participants
from grawa.comm.protocol import Transport
from grawa.errors import UserError
from grawa.math.leaves import Leaves, Rows, copied
from grawa.rounds.background import Lane
from grawa.rounds.clock import Clock
from grawa.rounds.cut import fragments
from grawa.rounds.fragment import Fragment
from grawa.rounds.gradients import share_gradients
from grawa.rounds.guard import Verdict, trusting
from grawa.rounds.plan import RoundPlan
from grawa.rounds.purposes import ROUNDS, Purpose, served
from grawa.rounds.report import Reporter, RoundReport
from grawa.rounds.roll_call import Roll, RollCall
from grawa.rounds.schedule import Timetable
from grawa.rounds.symptoms import Symptoms
from grawa.rounds.underway import Outcome, Underway
from grawa.workers.buffers import average, check_forms, states_of
from grawa.workers.replicas import Replicas
from grawa.workers.start import start_alike


class Engine:
    """Counts the hosted workers' local steps, and makes rounds when they are due.

    With a single worker rounds are counted and reported, but move nothing: it trains as without
    the engine, unless the strategy says that it moves one worker too.

    Args:
        replicas: the hosted workers; all workers get the parameters and buffers of worker 0.
        comm: all workers.
        worker: the processes that the one hosted worker is made of, if they are several.
        plan: how rounds are made.
        clock: what time it is.
        tell: what gets the report of each round.
    """

    def __init__(
        self,
        replicas: Replicas,
        comm: Transport,
        worker: Transport | None,
        plan: RoundPlan,
        clock: Clock,
        tell: Callable[[RoundReport], None],
    ) -> None:
        self.replicas, self.comm, self.plan = replicas, comm, plan
        self._clock, self._tell = clock, tell
        self._timetable = Timetable(plan.schedule, plan.fragments)
        # Where nothing is sent there is nothing to hide, and the order is to be the same each time.
        self._lane = Lane(replicas.device, background=comm.num_hosted < comm.num_workers)
        self._moves = comm.num_workers > 1 or plan.strategy.moves_one_worker
        self._averages_buffers = plan.buffers == "average" and comm.num_workers > 1
        self._reporter = Reporter()
        self._symptoms = Symptoms()
        start_alike(replicas, comm)
        groups = dict(zip(replicas.names, plan.strategy.groups(replicas.names), strict=True))
        self._fragments = [
            Fragment(
                replicas.params.part(names), [groups[n] for n in names], plan, comm, replicas.norms
            )
            for names in fragments(replicas.params, plan.fragments)
        ]
        self._roll_call = RollCall(
            replicas,
            comm,
            worker,
            plan,
            list(groups.values()),
            moves=self._moves,
            with_buffers=self._averages_buffers,
        )
        self._underway: Underway | None = None
        self._norms: Tensor | None = None
        self._mean_gradient: Leaves | None = None
        self._lr: float | None = None
        self._size = float(replicas.sizes()[0])
        self._total = 0
        self.waiting = [False] * comm.num_hosted
        self.round = 0
        clock.disregard()

    @property
    def steps(self) -> list[int]:
        """Local steps made by each hosted worker."""
        return [int(step) for step in self._roll_call.steps]

    @property
    def step(self) -> int:
        """Local steps made; with several hosted workers, by the foremost."""
        return max(self.steps)

    @property
    def total_steps(self) -> int:
        """Local steps of all workers, as far as this process knows."""
        together = self.plan.schedule.counts_together
        return self._total if together else self.step * self.comm.num_workers

    def local_steps_begin(self) -> None:
        """The workers train by themselves from now on."""
        self._reporter.local_steps_begin(self._clock.now())

    def note_losses(self, losses: Tensor, who: slice = slice(None)) -> None:
        """Takes the losses of a local step of these hosted workers."""
        self._roll_call.note_losses(losses, who)

    def note_norms(self, norms: Tensor) -> None:
        """Takes the norms of the coming step's gradients, (K, L), before they are clipped."""
        self._norms = norms

    def local_step(self, who: slice = slice(None)) -> None:
        """These hosted workers' optimizers have stepped; rounds that are due are made."""
        self._note_step(who)
        self._clock.stepped(who)
        position = self._position(len(range(self.comm.num_hosted)[who]))
        if self._underway is not None:
            self._underway.age += 1
            if self._underway.age >= self.plan.overlap_steps:
                self.settle()
        while self._timetable.is_due(position) and self._all_joined(who):
            self._begin_round(self._timetable.taken(self._lr))

    def _note_step(self, who: slice) -> None:
        """Notes norms and lets the workers drift, if this is one of the steps for it."""
        every, score = self.plan.hook_every, self.plan.strategy.score
        due = (self.steps[who][0] + 1) % every == 0
        norms, clipped = self._norms, self._norms is not None
        self._norms = None
        if not (due and self._moves and score is not None and score.needs_gradients):
            norms = None
        elif norms is None:
            norms = self.replicas.gradient_norms(who)
        self._roll_call.note_step(norms, who)
        if norms is not None and not clipped:
            self._symptoms.note_norms(norms)
        if due and self._moves:
            if self.replicas.follow():
                self._bind()
            for fragment in self._fragments:
                fragment.drift(min(1.0, every * self._timetable.share), who)

    def _bind(self) -> None:
        for fragment in self._fragments:
            fragment.bind(self.replicas.params)

    def _position(self, steps: int) -> float:
        """Local steps made, on average over all workers if they are counted together."""
        if not self.plan.schedule.counts_together:
            return self.step
        self._total = self.comm.count(steps)
        return self._total / self.comm.num_workers

    def is_near(self) -> bool:
        """Whether a round may be due at the next local step."""
        return self._timetable.is_due(self.total_steps / self.comm.num_workers + 1)

    def uncount(self, skipped: Tensor) -> None:
        """Takes back local steps that the optimizer turned out to have skipped: (K,)."""
        self._roll_call.uncount(skipped)
        if self.plan.schedule.counts_together:
            self._total = self.comm.count(-int(skipped.sum()))

    def fail(self, message: str) -> NoReturn:
        """Tells the others that this process can't go on, so that all raise.

        Raises:
            UserError: with this message here, and with one that names this worker elsewhere.
        """
        self.settle()
        self._tell_failure(self._timetable.fragment)
        raise UserError(message)

    def _tell_failure(self, fragment: int) -> None:
        rows = self._said(Purpose.FAILED, fragment)
        self._lane.run(lambda: self._roll_call.call(rows))

    def _all_joined(self, who: slice) -> bool:
        """Hosted workers that step by themselves join a round one after another."""
        self.waiting[who] = [True] * len(self.waiting[who])
        if not all(self.waiting):
            return False
        self.waiting = [False] * len(self.waiting)
        return True

    def share_gradients(self) -> None:
        """Before an optimizer's step that uses the mean of all workers' gradients; collective."""
        if self.comm.num_workers == 1:
            return
        roll = self._meet(Purpose.GRADIENTS)
        workers = Participants(self.comm, self._judge(roll).active)
        self._mean_gradient = share_gradients(
            self.replicas, workers, roll.has_gradient, self._mean_gradient
        )
        self._clock.arrive(self._clock.finished())

    def synchronize(self) -> None:
        """Synchronises all fragments now; every process must call it."""
        self.settle()
        self._reporter.local_steps_end(self._clock.now())
        for _ in self._fragments:
            began = self._clock.now()
            roll = self._meet(Purpose.SYNCHRONIZE)
            self._round_here(self._timetable.turn(), began, roll)
        self._reporter.local_steps_begin(self._clock.now())

    def leave(self) -> None:
        """Takes part in what the others still need, and in rounds for the last steps of all."""
        self.settle()
        self._reporter.local_steps_end(self._clock.now())
        for _ in self._fragments:
            began = self._clock.now()
            roll = self._meet(Purpose.LEAVING)
            index = self._timetable.turn()
            if bool((roll.new_steps > 0).any()):
                roll, _ = self._call(self._rows(Purpose.ROUND, index))
                self._round_here(index, began, roll)

    def consensus(self) -> dict[str, Tensor]:
        """The strategy's consensus, name -> leaf; every process must call it."""
        self.settle()
        before = self.comm.bytes_sent
        found = self._consensus(self._meet(Purpose.CONSENSUS))
        self._disregard_since(before)
        return found

    def _consensus(self, roll: Roll) -> dict[str, Tensor]:
        active = self._judge(roll).active
        found: dict[str, Tensor] = {}
        for fragment in self._fragments:
            if self._moves:
                found.update(fragment.consensus(active))
            else:
                found.update((name, rows[0]) for name, rows in fragment.params.items())
        return found

    def gather(self, value: float) -> Tensor:
        """Every worker's value, (N,), float64; every process must call it with one of its own."""
        before = self.comm.bytes_sent
        values = self._meet(Purpose.VALUES, value).values
        self._disregard_since(before)
        return values

    def _disregard_since(self, bytes_before: int) -> None:
        """What was sent since then serves no training: it takes no time, and no round counts it."""
        self._clock.disregard()
        self._reporter.disregard(self.comm.bytes_sent - bytes_before)

    def _judge(self, roll: Roll) -> Verdict:
        health = roll.health._replace(start_size=self._size)
        return trusting(health) if self.plan.guard is None else self.plan.guard.judge(health)

    def _meet(self, purpose: Purpose, value: float = 0.0) -> Roll:
        """Meets the others until all have come for the same, and serves them until then.

        Returns:
            What all said at the meeting at which it is served.
        """
        while True:
            began, index = self._clock.now(), self._timetable.fragment
            rows = self._rows(purpose, index, value)
            roll, action = self._call(rows)
            if action in ROUNDS and len(set(roll.purposes)) > 1:
                self._symptoms.note_waiting(roll)
                rows = rows if purpose in ROUNDS else self._rows(action, index)
                roll, _ = self._call(rows)  # now everyone says what a round needs
            if action is purpose:
                return roll
            if action is Purpose.CONSENSUS:
                self._consensus(roll)
            elif action is Purpose.ROUND:
                self._round_here(self._timetable.taken(self._lr), began, roll)
            else:
                self._round_here(self._timetable.turn(), began, roll)

    def _call(self, rows: Tensor) -> tuple[Roll, Purpose]:
        """One roll call, here and now, after what is under way; and what is to be done."""
        return self._lane.run(lambda: self._answered(rows))

    def _answered(self, rows: Tensor) -> tuple[Roll, Purpose]:
        roll = self._roll_call.call(rows)
        return roll, served(roll.purposes, roll.steps, roll.rounds)

    def _rows(self, purpose: Purpose, fragment: int, value: float = 0.0) -> Tensor:
        """What the hosted workers say, after a look at whether they can take part at all.

        Returns:
            Their rows; with scores and buffers only where a round needs them.

        Raises:
            UserError: if they can't; the others are told before.
        """
        if purpose in ROUNDS or purpose is Purpose.CONSENSUS:
            try:
                self._check()
            except UserError:
                self._tell_failure(fragment)
                raise
        if purpose in ROUNDS and self._roll_call.has_news(fragment):
            self._clock.scored()
        return self._said(purpose, fragment, value)

    def _said(self, purpose: Purpose, fragment: int, value: float = 0.0) -> Tensor:
        return self._roll_call.rows(
            purpose, fragment, rounds=self.round, elapsed=self._clock.now(), value=value
        )

    def _check(self) -> None:
        """Notices, before a round, what would make it wrong."""
        self.replicas.check()
        if self.replicas.follow():
            self._bind()
        if self.round == 0:
            self.replicas.check_optimizer_state()

    def _begin_round(self, index: int) -> None:
        """Starts a round that is due; it is over at once, unless it goes on in the background."""
        self.settle()
        began = self._clock.now()
        self._reporter.local_steps_end(began)
        fragment = self._fragments[index]
        rows = self._rows(Purpose.ROUND, index)
        self._roll_call.restart(index)
        before = self._buffers_of(index)
        if fragment.shadow is not None:
            fragment.shadow.take(fragment.params)
            before = copied(before)

        def run() -> Outcome:
            with torch.no_grad():
                roll, _ = self._answered(rows)
                if len(set(roll.purposes)) > 1:  # now everyone says what a round needs
                    self._symptoms.note_waiting(roll)
                    roll, _ = self._answered(rows)
                return self._run(index, roll, before, in_shadow=fragment.shadow is not None)

        if fragment.shadow is None:
            self._end(Underway(index, run, began, self.step, before))
        else:
            waits = self._lane.start(run)
            self._underway = Underway(index, waits, began, self.step, before, in_shadow=True)
            self._underway.exposed = self._clock.now() - began
        self._reporter.local_steps_begin(self._clock.now())

    def _round_here(self, index: int, began: float, roll: Roll) -> None:
        """A round whose roll has been called already, on the workers themselves."""
        self._roll_call.restart(index)
        before = self._buffers_of(index)
        outcome = self._run(index, roll, before, in_shadow=False)
        self._end(Underway(index, lambda: outcome, began, self.step, before))

    def _buffers_of(self, index: int) -> Rows:
        """The buffers that are averaged with a fragment: all with the last one."""
        averaged = self._averages_buffers and index == len(self._fragments) - 1
        return self.replicas.buffers.rows() if averaged else Rows()

    def _run(self, index: int, roll: Roll, buffers: Rows, *, in_shadow: bool) -> Outcome:
        """The round itself; where there is a shadow, in the background."""
        joined = self._clock.joined()
        check_forms(self.replicas.buffers.names, roll.marks)
        verdict, fragment = self._judge(roll), self._fragments[index]
        weights, distance = None, None
        if self._moves:
            shadow = fragment.shadow if in_shadow else None
            params = fragment.params if shadow is None else shadow.target()
            weights, distance = fragment.run(params, verdict.scores, verdict.active)
            if shadow is not None:
                shadow.finish(self._hosted(verdict.reset))
        agreed = self._averaged(buffers, roll, verdict)
        finished = self._clock.finished()
        return Outcome(roll, verdict, weights, distance, agreed, joined, finished)

    def _averaged(self, buffers: Rows, roll: Roll, verdict: Verdict) -> dict[str, Tensor]:
        if not buffers:
            return {}
        workers = Participants(self.comm, verdict.active)
        states = states_of(roll.marks)
        return average(
            buffers, states, verdict.active, workers, lambda rows: self.comm.gather(rows)()
        )

    def settle(self) -> None:
        """Waits for the round that is under way, if there is one, and lets the workers follow it.

        What went wrong in the background is raised here.
        """
        if self._underway is None:
            return
        underway, self._underway = self._underway, None
        underway.called = self._clock.now()
        self._reporter.local_steps_end(underway.called)
        self._end(underway)
        self._reporter.local_steps_begin(self._clock.now())

    def _end(self, underway: Underway) -> None:
        """A round's outcome reaches the workers, and the outside."""
        called = underway.began if underway.called is None else underway.called
        outcome = underway.wait()
        self._clock.arrive(outcome.finished)
        fragment, verdict = self._fragments[underway.fragment], outcome.verdict
        reset = self._hosted(verdict.reset)
        buffers = self.replicas.buffers
        if underway.in_shadow and self._moves:
            assert fragment.shadow is not None, "it ran there"
            fragment.shadow.give(fragment.params, reset)
            buffers.follow(outcome.buffers, underway.before)
            buffers.put(outcome.buffers, reset)
        else:
            buffers.put(outcome.buffers)
        fragment.settle()
        self._mend(outcome, reset)
        buffers.remember(list(outcome.buffers))
        self._lr = outcome.roll.lr
        self._size = float(outcome.roll.health.sizes[verdict.active].median())
        self.round += 1
        if self._moves and not self.plan.strategy.shares_gradients(self.step):
            self._symptoms.note_round(outcome.roll)
        underway.exposed += self._clock.now() - called
        self._tell(self._reporter.report(self.round, underway, outcome, self.comm.bytes_sent))

    def _hosted(self, flags: Tensor) -> list[int]:
        """Which hosted workers are meant by (N,) flags."""
        return [int(k) for k in torch.where(self.comm.hosted(flags))[0]]

    def _mend(self, outcome: Outcome, reset: Sequence[int]) -> None:
        """Workers that are to be reset start again from the consensus; all processes take part."""
        verdict = outcome.verdict
        if not bool(verdict.reset.any()):
            return
        for fragment in self._fragments:
            consensus = fragment.consensus(verdict.active)
            for k in reset:
                own = [rows[k] for rows in fragment.params.values()]
                torch._foreach_copy_(own, list(consensus.values()))
        if self._averages_buffers:
            buffers = self.replicas.buffers
            buffers.put(self._averaged(buffers.rows(), outcome.roll, verdict), reset)
        self._roll_call.forget_losses(reset)
        for k in reset:
            for optimizer in self.replicas.optimizers[k]:
                optimizer.state.clear()

    def state_dict(self) -> dict[str, Any]:
        """What must be saved so that training resumes bit for bit; ends what is under way."""
        self.settle()
        return {
            "waiting": list(self.waiting),
            "round": self.round,
            "lr": self._lr,
            "size": self._size,
            "clock": self._clock.state_dict(),
            "timetable": self._timetable.state_dict(),
            "roll_call": self._roll_call.state_dict(),
            "fragments": [fragment.state_dict() for fragment in self._fragments],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave.

        Raises:
            UserError: if it was saved with other fragments, or by another strategy.
        """
        if len(state["fragments"]) != len(self._fragments):
            raise UserError(
                f"the saved state has {len(state['fragments'])} fragments, not "
                f"{len(self._fragments)}"
            )
        for fragment, saved in zip(self._fragments, state["fragments"], strict=True):
            fragment.load_state_dict(saved)
        self._roll_call.load_state_dict(state["roll_call"])
        self._clock.load_state_dict(state["clock"])
        self._timetable.load_state_dict(state["timetable"])
        self.waiting, self.round = list(state["waiting"]), state["round"]
        self._lr, self._size = state["lr"], state["size"]
        self.replicas.buffers.remember()
        if self.plan.schedule.counts_together:
            self.comm.reset_count(sum(self.steps))
            self._total = sum(self.steps)
