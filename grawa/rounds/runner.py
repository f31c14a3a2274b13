"""Runs the rounds of fragments and applies their results to the workers."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from grawa.comm.protocol import Transport
from grawa.math.digest import digests
from grawa.math.leaves import Rows
from grawa.rounds.attendance import Attendance
from grawa.rounds.clock import Clock
from grawa.rounds.cut import fragments
from grawa.rounds.fragment import Fragment
from grawa.rounds.guard import Verdict, trusting
from grawa.rounds.local_steps import LocalSteps
from grawa.rounds.observed import Hosted
from grawa.rounds.optimizer_state import OptimizerStateRounds
from grawa.rounds.plan import RoundPlan
from grawa.rounds.present import judged
from grawa.rounds.report import OnRound, Reporter
from grawa.rounds.resets import Resets, Restart
from grawa.rounds.roll_call import Roll, RollCall
from grawa.rounds.symptoms import Symptoms
from grawa.rounds.underway import Outcome, Underway
from grawa.workers.buffers import check_forms
from grawa.workers.replicas import Replicas


class Runner:
    """Runs the rounds of a model's fragments, and applies their results to the hosted workers.

    Args:
        replicas: the hosted workers; all workers are equal now.
        comm: connects all workers.
        worker: connects the processes that the one hosted worker consists of, if they are several.
        plan: how rounds are run.
        clock: times the workers.
        tell: called with the report of each round.

    Attributes:
        moves: whether rounds change parameters: not with a single worker, unless the strategy has
            `moves_one_worker`.
        fragments: P parts of the model.
        optimizer_state: averages or clears the optimizers' state at rounds.
        roll_call: exchanges what the workers report.
        local_steps: what happens between rounds.
        reporter: measures times and bytes between reports.
        symptoms: warns of likely mistakes that raise no error.
        tell: called with the report of each round.
        round: rounds so far.
        lr: the learning rate at the last round; the same on every process.
        stopping: whether a round has told all processes that training is to end.
    """

    def __init__(
        self,
        replicas: Replicas,
        comm: Transport,
        worker: Transport | None,
        plan: RoundPlan,
        clock: Clock,
        tell: Sequence[OnRound],
    ) -> None:
        self._replicas, self._comm, self._plan = replicas, comm, plan
        self._clock, self.tell = clock, list(tell)
        self.moves = comm.num_workers > 1 or plan.strategy.moves_one_worker
        self._averages_buffers = plan.buffers == "average" and comm.num_workers > 1
        groups = dict(zip(replicas.names, plan.strategy.groups(replicas.names), strict=True))
        norms = replicas.gradients.norms
        self.fragments = [
            Fragment(replicas.params.part(names), [groups[n] for n in names], plan, comm, norms)
            for names in fragments(replicas.params, plan.num_fragments, plan.fragment_of)
        ]
        self._resets = Resets(
            replicas, comm, self.fragments, averages_buffers=self._averages_buffers
        )
        self.optimizer_state = OptimizerStateRounds(replicas.states, comm, plan)
        self.roll_call = RollCall(
            replicas, comm, worker, plan, list(groups.values()),
            Hosted(replicas.gradients, self.fragments, plan),
            moves=self.moves, with_buffers=self._averages_buffers,
        )  # fmt: skip
        self.reporter = Reporter()
        self.symptoms = Symptoms(speaks=comm.process == 0 or plan.elastic)
        self._attendance = Attendance(
            comm.num_workers, len(self.fragments), plan.overlap_steps, plan.guard
        )
        self.round = 0
        self.lr: float | None = None
        self.stopping = False
        self._size = float(replicas.gradients.sizes(replicas.params)[0])
        self.local_steps = LocalSteps(
            plan.strategy, replicas, self.fragments, self.roll_call, self.symptoms,
            first=comm.process * comm.num_hosted, moves=self.moves,
        )  # fmt: skip

    def status(self) -> dict[str, Any]:
        """The numbers that are the same on all workers between rounds."""
        rounds = [fragment.rounds for fragment in self.fragments]
        known = {"round": self.round, "lr": self.lr, "size": self._size, "rounds": rounds}
        return {**known, "attendance": self._attendance.state_dict()}

    def adopt(self, status: dict[str, Any]) -> None:
        """Takes over the numbers of another worker."""
        self.round, self.lr, self._size = status["round"], status["lr"], status["size"]
        self._attendance.load_state_dict(status["attendance"])
        for fragment, rounds in zip(self.fragments, status["rounds"], strict=True):
            fragment.rounds = rounds

    def digests(self) -> Tensor | float:
        """What tells unequal parameters of hosted workers apart, if it matters now; otherwise 0."""
        if self.moves and self.symptoms.suspects_equals:
            return digests(self._replicas.params.values())
        return 0.0

    def judge(self, roll: Roll) -> Verdict:
        """Decides which workers take part; the same on every process."""
        health = roll.health._replace(
            start_size=self._size,
            fit_steps=self._attendance.fit_steps(roll.steps),
            dropped=self._attendance.dropped,
        )
        judge = trusting if self._plan.guard is None else self._plan.guard.judge
        return judged(roll, health, judge)

    def consensus(self, roll: Roll) -> dict[str, Tensor]:
        """The strategy's consensus, name -> tensor; collective."""
        active = self.judge(roll).active
        found: dict[str, Tensor] = {}
        for fragment in self.fragments:
            if self.moves:
                found.update(fragment.consensus(active))
            else:
                found.update((name, rows[0]) for name, rows in fragment.params.items())
        return found

    def buffers_of(self, index: int) -> Rows:
        """The buffers that are averaged with this fragment: all of them with the last one."""
        averaged = self._averages_buffers and index == len(self.fragments) - 1
        return self._replicas.buffers.rows() if averaged else Rows()

    def run(self, index: int, roll: Roll, buffers: Rows, *, in_shadow: bool, late: bool) -> Outcome:
        """Runs the round itself, until it is committed without effect on elastic workers.

        Args:
            index: the fragment.
            roll: what the workers reported.
            buffers: those that are averaged with it.
            in_shadow: whether it runs on a copy.
            late: whether the workers make local steps meanwhile.

        Returns:
            Its result.
        """
        joined = self._clock.joined()
        check_forms(self._replicas.buffers.names, roll.marks)
        verdict, fragment = self.judge(roll), self.fragments[index]
        weights, found = None, None
        restart: Restart | None = None
        change_state: Callable[[], None] | None = None
        if self.moves:
            shadow = fragment.shadow if in_shadow else None
            params = fragment.params if shadow is None else shadow.target()
            amounts = roll.amounts(self._plan.weigh_by)
            weights, found = fragment.run(params, verdict.scores, verdict.active, amounts)
            change_state = self.optimizer_state.run(fragment, verdict.active)
            if self._plan.elastic and bool(verdict.reset.any()):
                restart = self._resets.restart(roll, verdict, index, params)
            if shadow is not None and late:
                shadow.finish(self._hosted(verdict.reset))
        agreed = self._resets.averaged(buffers, roll, verdict)
        finished = self._clock.finished()
        return Outcome(
            roll, verdict, weights, found, agreed, joined, finished, restart, change_state
        )

    def commit(self, index: int, _: object = None) -> None:
        """Keeps what the round of this fragment has made of the strategy's state."""
        if self.moves:
            self.fragments[index].commit()

    def end(self, underway: Underway) -> None:
        """Waits for a round's result, applies it to the workers, and reports it."""
        called = underway.began if underway.called is None else underway.called
        outcome = underway.wait()
        self.local_steps.catch_up()  # toward the center that workers still see
        self._clock.arrive(outcome.finished)
        fragment, verdict = self.fragments[underway.fragment], outcome.verdict
        reset = self._hosted(verdict.reset)
        buffers = self._replicas.buffers
        if underway.in_shadow and self.moves:
            assert fragment.shadow is not None, "it ran there"
            if underway.late:
                fragment.shadow.give(fragment.params, reset)
            else:
                fragment.shadow.settle(fragment.params)
        if underway.late and self.moves:
            buffers.follow(outcome.buffers, underway.before)
            buffers.put(outcome.buffers, reset)
        else:
            buffers.put(outcome.buffers)
        fragment.publish()
        if outcome.change_state is not None:
            outcome.change_state()
        self._reset(outcome, reset)
        if self._plan.elastic:
            fragment.settled(late=underway.late)
        buffers.remember(list(outcome.buffers))
        self.lr = outcome.roll.lr
        self._size = float(outcome.roll.health.sizes[verdict.active].median())
        self.round += 1
        if outcome.roll.stopping:  # those who come later hear it from all, whoever has left
            self.stopping = self.roll_call.asks_to_stop = True
        if self.moves and not self._plan.strategy.shares_gradients(max(0, underway.step - 1)):
            self.symptoms.note_round(outcome.roll)
        underway.exposed += self._clock.now() - called
        absences = self._attendance.note(self.round, outcome.roll.steps, verdict)
        sent = self._comm.bytes_sent
        report = self.reporter.report(self.round, underway, outcome, absences, sent)
        for callback in self.tell:
            callback(report)

    def _hosted(self, flags: Tensor) -> list[int]:
        """The hosted workers for which (N,) flags are true, numbered from 0."""
        return [int(k) for k in torch.where(self._comm.hosted(flags))[0]]

    def _reset(self, outcome: Outcome, reset: Sequence[int]) -> None:
        """Restarts workers that are to be reset from the consensus; collective."""
        verdict = outcome.verdict
        if not bool(verdict.reset.any()):
            return
        found = outcome.restart
        self._resets.put(
            self._resets.restart(outcome.roll, verdict) if found is None else found, reset
        )
        self.roll_call.forget_losses(reset)

    def state_dict(self) -> dict[str, Any]:
        """What must be saved so that training resumes bit for bit."""
        return {
            "round": self.round,
            "lr": math.nan if self.lr is None else self.lr,
            "size": self._size,
            "buffers": self._replicas.buffers.changed(),
            "attendance": self._attendance.state_dict(),
            "roll_call": self.roll_call.state_dict(),
            "local_steps": self.local_steps.state_dict(),
            "fragments": [fragment.state_dict() for fragment in self.fragments],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned, of the same model and plan."""
        for fragment, saved in zip(self.fragments, state["fragments"], strict=True):
            fragment.load_state_dict(saved)
        self.roll_call.load_state_dict(state["roll_call"])
        self.local_steps.load_state_dict(state["local_steps"])
        self.round, self._size = state["round"], float(state["size"])
        self.lr = None if math.isnan(state["lr"]) else float(state["lr"])
        self._attendance.load_state_dict(state["attendance"])
        self.remember_buffers(state["buffers"])

    def remember_buffers(self, changed: Mapping[str, bool]) -> None:
        """Takes the buffers as they are for those of the last round, but for what has changed."""
        self._replicas.buffers.remember()
        self._replicas.buffers.forget([name for name, has in changed.items() if has])
