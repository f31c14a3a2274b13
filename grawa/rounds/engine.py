"""The engine of an `Averager`: local steps, rounds that are due, and rounds under way."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from grawa.comm.compression import Compression
from grawa.comm.protocol import Transport
from grawa.errors import UserError
from grawa.math.leaves import Leaves, Rows
from grawa.rounds.background import Lane
from grawa.rounds.clock import Clock
from grawa.rounds.cut import fragments
from grawa.rounds.fragment import Rounds, judge
from grawa.rounds.gradients import GradientSharing
from grawa.rounds.guard import Verdict
from grawa.rounds.plan import RoundPlan
from grawa.rounds.report import Done, Reporter, RoundReport
from grawa.rounds.roll_call import Calls, Roll, RollCall
from grawa.rounds.schedule import Timetable
from grawa.workers.buffers import mend_buffers
from grawa.workers.replicas import Replicas
from grawa.workers.start import start_alike
from grawa.workers.target import Shadow, Target


@dataclass(frozen=True)
class Part:
    """A fragment, with all that is its own."""

    params: Rows
    by_worker: list[Rows]
    """The same, one row each."""
    roll_call: RollCall
    rounds: Rounds
    compression: Compression | None
    shadow: Shadow | None
    with_buffers: bool


@dataclass
class Pending:
    """A round that has begun."""

    fragment: int
    wait: Callable[[], Done]
    began: float
    step: int
    shadow: Shadow | None
    """On which it runs; `None` if on the workers themselves."""
    exposed: float = 0.0
    age: int = 0
    """Local steps since it began."""


class Synchronizer:
    """Makes rounds when they are due.

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
        self._replicas = replicas
        self._comm = comm
        self._plan = plan
        self._clock = clock
        self._tell = tell
        self._timetable = Timetable(plan.schedule, plan.fragments)
        # Where nothing is sent there is nothing to hide, and the order is to be the same each time.
        self._lane = Lane(replicas.device, background=comm.num_hosted < comm.num_workers)
        self._sharing = GradientSharing(replicas, comm)
        self._reporter = Reporter()
        start_alike(replicas, comm)
        self._parts = self._make_parts(worker)
        self._pending: Pending | None = None
        self._lr: float | None = None
        self.steps = [0] * comm.num_hosted
        self._total = 0
        self.waiting = [False] * comm.num_hosted
        self.round = 0
        clock.disregard()

    def _make_parts(self, worker: Transport | None) -> list[Part]:
        replicas, plan = self._replicas, self._plan
        groups = dict(zip(replicas.names, plan.strategy.groups(replicas.names), strict=True))
        cut = fragments(replicas.params, plan.fragments)
        return [
            self._make_part(names, groups, worker, with_buffers=i == len(cut) - 1)
            for i, names in enumerate(cut)
        ]

    def _make_part(
        self,
        names: Sequence[str],
        groups: dict[str, int],
        worker: Transport | None,
        *,
        with_buffers: bool,
    ) -> Part:
        plan, comm = self._plan, self._comm
        params = self._replicas.params.part(names)
        compression = (
            Compression(plan.comm_dtype, Leaves.copy_of(params)) if plan.comm_dtype else None
        )
        in_background = plan.overlap_steps > 0
        return Part(
            params=params,
            by_worker=[params.worker(k) for k in range(comm.num_hosted)],
            roll_call=RollCall(
                self._replicas,
                comm,
                worker,
                score=plan.strategy.score,
                groups=list(groups.values()),
                with_buffers=plan.buffers == "average",
                shares_gradients=plan.strategy.shares_gradients(0),
            ),
            rounds=Rounds(
                params,
                [groups[name] for name in names],
                plan.strategy,
                comm,
                compression,
                plan.guard,
                measure_distance=plan.measure_distance,
                in_background=in_background,
            ),
            compression=compression,
            shadow=Shadow(params) if in_background else None,
            with_buffers=with_buffers and plan.buffers == "average",
        )

    @property
    def step(self) -> int:
        """Local steps made; with several hosted workers, by the foremost."""
        return max(self.steps)

    @property
    def total_steps(self) -> int:
        """Local steps of all workers, as far as this process knows."""
        together = self._plan.schedule.counts_together
        return self._total if together else self.step * self._comm.num_workers

    def local_steps_begin(self) -> None:
        """The workers train by themselves from now on."""
        self._reporter.local_steps_begin(self._clock.now())

    def note_losses(self, losses: Tensor, who: slice) -> None:
        """Takes the losses of a local step of these hosted workers."""
        for part in self._parts:
            part.roll_call.note_losses(losses, who)

    def local_step(self, who: slice) -> None:
        """These hosted workers' optimizers have stepped; rounds that are due are made."""
        self.steps[who] = [step + 1 for step in self.steps[who]]
        self._note_step(who)
        self._clock.stepped(who)
        position = self._position(len(self.steps[who]))
        if self._pending is not None:
            self._pending.age += 1
            if self._pending.age >= self._plan.overlap_steps:
                self.settle()
        while self._timetable.is_due(position) and self._all_joined(who):
            self._begin_round(self._timetable.taken)

    def _note_step(self, who: slice) -> None:
        """Notes norms and lets the workers drift, if this is one of the steps for it."""
        every, score = self._plan.hook_every, self._plan.strategy.score
        due = self.steps[who][0] % every == 0
        needs_norms = due and score is not None and score.needs_gradients
        norms = self._replicas.gradient_norms(who) if needs_norms else None
        everyone = len(self.steps[who]) == len(self.steps)
        for part in self._parts:
            part.roll_call.note_step(norms, who)
            if due:
                for rows in [part.params] if everyone else part.by_worker[who]:
                    part.rounds.drift(rows, min(1.0, every * self._timetable.share))

    def _position(self, steps: int) -> float:
        """Local steps made, on average over all workers if they are counted together."""
        if not self._plan.schedule.counts_together:
            return self.step
        self._total = self._comm.count(steps)
        return self._total / self._comm.num_workers

    def _all_joined(self, who: slice) -> bool:
        """Hosted workers that step by themselves join a round one after another."""
        self.waiting[who] = [True] * len(self.waiting[who])
        if not all(self.waiting):
            return False
        self.waiting = [False] * len(self.waiting)
        return True

    def share_gradients(self) -> None:
        """Before an optimizer's step that uses the mean of all workers' gradients."""
        roll, _ = self._call(Calls.GRADIENTS)
        self._sharing.share(roll, judge(self._plan.guard, roll.health).active, self.step)
        self._clock.arrive(self._clock.finished())

    def make_rounds(self) -> None:
        """Synchronises all fragments now; every process must call it."""
        for _ in self._parts:
            self._begin_round(lambda lr: self._timetable.turn())
            self.settle()

    def leave(self) -> None:
        """Takes part in the others' last rounds, and in those for the last steps of all."""
        self.settle()
        self._reporter.local_steps_end(self._clock.now())
        left = 0
        while left < len(self._parts):
            began = self._clock.now()
            roll, joined = self._call(Calls.LEAVING)
            if bool((roll.calls == Calls.GRADIENTS).any()):
                self._sharing.share(roll, roll.calls < 0, self.step)  # says who has stopped
            all_leave = bool((roll.calls == Calls.LEAVING).all())
            fragment = self._timetable.turn()
            if not all_leave or bool((roll.new_steps > 0).any()):
                self._round_here(fragment, roll, began, joined)
            left = left + 1 if all_leave else 0

    def consensus(self) -> dict[str, Tensor]:
        """The strategy's consensus, name -> leaf; every process must call it."""
        self.settle()
        before = self._comm.bytes_sent
        roll, _ = self._call(Calls.CONSENSUS)
        active = judge(self._plan.guard, roll.health).active
        found: dict[str, Tensor] = {}
        for part in self._parts:
            found.update(part.rounds.consensus(part.params, active))
        self._disregard_since(before)
        return found

    def gather(self, value: float) -> Tensor:
        """Every worker's value, (N,); the hosted workers' are the same."""
        rows = torch.full((self._comm.num_hosted, 1), value, dtype=torch.float64)
        before = self._comm.bytes_sent
        everyone = self._lane.run(lambda: self._comm.gather(rows)())
        self._disregard_since(before)
        return everyone[:, 0]

    def _disregard_since(self, bytes_before: int) -> None:
        """What was sent since then serves no training: it takes no time, and no round counts it."""
        self._clock.disregard()
        self._reporter.disregard(self._comm.bytes_sent - bytes_before)

    def _call(self, purpose: Calls) -> tuple[Roll, float]:
        """Calls the roll here and now, after what is under way."""
        call = self._parts[self._timetable.fragment].roll_call
        rows = self._rows(call, purpose, self._clock.now())
        return self._lane.run(lambda: call.call(rows)), self._clock.joined()

    def _rows(self, call: RollCall, purpose: Calls, moment: float) -> Tensor:
        """What the hosted workers say; finding out their scores for a round takes time."""
        rows = call.rows(purpose, moment)
        if call.has_news(purpose):
            self._clock.scored()
        return rows

    def _begin_round(self, turn: Callable[[float | None], int]) -> None:
        """Starts a round; it is over at once, unless it goes on in the background."""
        self.settle()
        began = self._clock.now()
        self._reporter.local_steps_end(began)
        self._replicas.check_unmoved()
        fragment = turn(self._lr)
        part = self._parts[fragment]
        rows = self._rows(part.roll_call, Calls.ROUND, began)
        part.roll_call.restart()
        live, shadow = self._live(part), part.shadow
        if shadow is not None:
            shadow.take(live)

        def run() -> Done:
            with torch.no_grad():
                roll = part.roll_call.call(rows)
                joined = self._clock.joined()
                if shadow is None:
                    return self._run(part, roll, joined, live)
                done = self._run(part, roll, joined, shadow.target())
                shadow.finish(self._broken(done))
                return done

        if shadow is None:
            self._end(Pending(fragment, run, began, self.step, None))
        else:
            self._pending = Pending(fragment, self._lane.start(run), began, self.step, shadow)
            self._pending.exposed = self._clock.now() - began
        self._reporter.local_steps_begin(self._clock.now())

    def _round_here(self, fragment: int, roll: Roll, began: float, joined: float) -> None:
        """A round whose roll has been called already, on the workers themselves."""
        self._replicas.check_unmoved()
        part = self._parts[fragment]
        part.roll_call.restart()
        done = self._run(part, roll, joined, self._live(part))
        self._end(Pending(fragment, lambda: done, began, self.step, None))

    def _run(self, part: Part, roll: Roll, joined: float, target: Target) -> Done:
        outcome = part.rounds.run(roll, target)
        return Done(roll, outcome, joined, self._clock.finished())

    def _live(self, part: Part) -> Target:
        if not part.with_buffers:
            return Target(part.params, Rows(), Rows())
        return Target(part.params, self._replicas.float_buffers(), self._replicas.other_buffers())

    def settle(self) -> None:
        """Waits for the round that is under way, if there is one, and lets the workers follow it.

        What went wrong in the background is raised here.
        """
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        called = self._clock.now()
        self._reporter.local_steps_end(called)
        self._end(pending)
        self._reporter.local_steps_begin(self._clock.now())

    def _end(self, pending: Pending) -> None:
        """A round's outcome reaches the workers, and the outside."""
        called = self._clock.now() if pending.shadow is not None else pending.began
        done = pending.wait()
        self._clock.arrive(done.finished)
        part = self._parts[pending.fragment]
        broken = self._broken(done)
        if pending.shadow is not None:
            pending.shadow.give(self._live(part), broken)
        part.rounds.settle()
        self._mend(done.outcome.verdict, broken)
        self._lr = done.roll.lr
        self.round += 1
        pending.exposed += self._clock.now() - called
        self._tell(
            self._reporter.report(
                self.round,
                pending.fragment,
                pending.step,
                done,
                began=pending.began,
                exposed=pending.exposed,
                bytes_sent=self._comm.bytes_sent,
            )
        )

    def _broken(self, done: Done) -> list[int]:
        """Hosted workers that are to start again."""
        reset = self._comm.hosted(done.outcome.verdict.reset)
        return [int(k) for k in torch.where(reset)[0]]

    def _mend(self, verdict: Verdict, broken: Sequence[int]) -> None:
        """Workers that are not sound start again from the consensus; all processes take part."""
        if not bool(verdict.reset.any()):
            return
        for part in self._parts:
            consensus = part.rounds.consensus(part.params, verdict.active)
            for k in broken:
                own = [rows[k] for rows in part.params.values()]
                torch._foreach_copy_(own, list(consensus.values()))
                part.roll_call.forget_losses(k)
        if self._plan.buffers == "average":
            mend_buffers(self._live(self._parts[-1]), self._comm, verdict.active, broken)
        for k in broken:
            self._replicas.optimizers[k].state.clear()

    def state_dict(self) -> dict[str, Any]:
        """What must be saved so that training resumes bit for bit; ends what is under way."""
        self.settle()
        return {
            "steps": list(self.steps),
            "waiting": list(self.waiting),
            "round": self.round,
            "lr": self._lr,
            "clock": self._clock.state_dict(),
            "timetable": self._timetable.state_dict(),
            "parts": [
                {
                    "roll": part.roll_call.state_dict(),
                    "rounds": part.rounds.state_dict(),
                    "compression": part.compression.state_dict() if part.compression else None,
                }
                for part in self._parts
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave.

        Raises:
            UserError: if it was saved with other fragments, or by another strategy.
        """
        if len(state["parts"]) != len(self._parts):
            raise UserError(
                f"the saved state has {len(state['parts'])} fragments, not {len(self._parts)}"
            )
        for part, saved in zip(self._parts, state["parts"], strict=True):
            part.roll_call.load_state_dict(saved["roll"])
            part.rounds.load_state_dict(saved["rounds"])
            if part.compression is not None and saved["compression"] is not None:
                part.compression.load_state_dict(saved["compression"])
        self._clock.load_state_dict(state["clock"])
        self._timetable.load_state_dict(state["timetable"])
        self.steps, self.waiting = list(state["steps"]), list(state["waiting"])
        self.round, self._lr = state["round"], state["lr"]
        if self._plan.schedule.counts_together:
            self._comm.reset_count(sum(self.steps))
            self._total = sum(self.steps)
