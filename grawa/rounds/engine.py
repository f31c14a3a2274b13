"""The engine: counts local steps, runs rounds that are due, and joins those of other processes."""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from torch import Tensor

from grawa.comm.protocol import Transport
from grawa.errors import UserError
from grawa.rounds.agreement import Agreement
from grawa.rounds.assembly import Assembly, Together
from grawa.rounds.background import Queue
from grawa.rounds.clock import Clock
from grawa.rounds.due import DueRounds
from grawa.rounds.giving import Giving
from grawa.rounds.gradients import GradientSharing
from grawa.rounds.keeping import NOT_FOR_DCP, Keeper
from grawa.rounds.meetings import Meetings
from grawa.rounds.origin import Origin
from grawa.rounds.plan import RoundPlan
from grawa.rounds.progress import Progress
from grawa.rounds.purposes import Purpose
from grawa.rounds.quorums import Quorums
from grawa.rounds.report import OnRound
from grawa.rounds.runner import Runner
from grawa.rounds.schedule import Timetable
from grawa.workers.overwritten import Overwritten
from grawa.workers.replicas import Replicas
from grawa.workers.start import start_equal

Result = TypeVar("Result")


class Engine:
    """Counts the hosted workers' local steps, and runs rounds when they are due.

    With a single worker, rounds are counted and reported but change no parameters, so it trains
    exactly as it would without the engine, unless the strategy has `moves_one_worker`.

    Args:
        replicas: the hosted workers; all workers get the parameters and buffers of worker 0.
        comm: connects all workers.
        worker: connects the processes that the one hosted worker consists of, if they are several.
        plan: how rounds are run.
        clock: times the workers.
        tell: called with the report of each round.
        assembly: brings the processes together; all of them, by default.

    Attributes:
        take_skipped: returns how many steps the hosted workers' optimizers turned out to have
            skipped, see `grawa.workers.skips`; called only where a round is due, since it waits
            for the device.
        keeper: saves and restores the state.
        assembly: brings the processes together.
        came_late: whether this elastic worker has come to a job that was under way.
    """

    def __init__(
        self,
        replicas: Replicas,
        comm: Transport,
        worker: Transport | None,
        plan: RoundPlan,
        clock: Clock,
        tell: Sequence[OnRound],
        assembly: Assembly | None = None,
    ) -> None:
        self.assembly = Together() if assembly is None else assembly
        self.take_skipped: Callable[[], Tensor | None] = lambda: None
        self.replicas, self.comm, self.plan, self._clock = replicas, comm, plan, clock
        alone = self.assembly.is_elastic  # until it joins the others
        overwritten = Overwritten(replicas) if alone else start_equal(replicas, comm)
        self._runner = Runner(replicas, comm, worker, plan, clock, tell)
        self._timetable = Timetable(plan.schedule, plan.num_fragments)
        together = plan.schedule.counts_together
        self._progress = Progress(comm, self._timetable, together=together)
        # Without messages there is nothing to overlap, and one thread keeps the order reproducible.
        several = comm.num_hosted < comm.num_workers
        self._queue = Queue(replicas.gradients.device, background=several)
        self._meetings = Meetings(
            replicas, self._runner, self._timetable, self._queue, clock, self.assembly
        )
        if isinstance(self.assembly, Quorums):
            adopt = self._meetings.adopt
            self.assembly.give = Giving(replicas, self._runner, comm, adopt).give
            self.assembly.is_asked_to_stop = lambda: self._runner.roll_call.asks_to_stop
        self._due = DueRounds(
            self._meetings, self._runner, self._timetable, self._queue, clock, self.assembly,
            overlap_steps=plan.overlap_steps,
        )  # fmt: skip
        self._norms: Tensor | None = None
        self._sharing = GradientSharing(replicas.gradients, comm)
        self.waiting = [False] * comm.num_hosted
        self.came_late = False
        self._transports = [comm] if worker is None else [comm, worker]
        self._has_left = False
        agreement = Agreement(self._meetings, comm, worker, alone=alone)
        self.keeper = Keeper(
            Origin.of(plan, replicas, comm, clock, agreement.part), overwritten, agreement,
            self._runner, clock, self._timetable, self._progress, self.waiting,
        )  # fmt: skip
        clock.disregard()

    @property
    def round(self) -> int:
        """Rounds so far."""
        return self._runner.round

    @property
    def steps(self) -> list[int]:
        """Local steps of each hosted worker."""
        return list(self._runner.roll_call.counts.steps)

    @property
    def step(self) -> int:
        """Local steps; with several hosted workers, of the one that has made the most."""
        return max(self.steps)

    @property
    def total_steps(self) -> int:
        """Local steps of all workers, as far as this process knows."""
        if self.plan.schedule.counts_together:
            return self._progress.total
        return self.step * self.comm.num_workers

    @property
    def stopping(self) -> bool:
        """Whether all processes know that training is to end, and no round is under way."""
        return self._runner.stopping and not self._due.is_under_way

    def request_stop(self) -> None:
        """Asks that training ends after the next round; may be called by a signal handler."""
        self._runner.roll_call.asks_to_stop = True

    def local_steps_begin(self) -> None:
        """Called when the workers begin to train between rounds."""
        self.came_late = self._meetings.start()
        purpose = Purpose.JOINING if self.came_late else Purpose.ROUND
        if purpose is Purpose.JOINING and not self._is_due():
            self._meetings.meet(Purpose.JOINING)
        if self._has_left:
            self._progress.reset(self.steps)
        self._has_left = False
        self._runner.reporter.local_steps_begin(self._clock.now())
        together = self.plan.schedule.counts_together  # then a process joins after its next step
        while not together and self._is_due():  # a checkpoint of between two rounds at one step
            self._due.begin(purpose)
            purpose = Purpose.ROUND

    def abandon(self) -> None:
        """Leaves without a word, after an error in the loop; elastic workers go on."""
        self.assembly.abandon()

    def note_losses(self, losses: Tensor, workers: slice = slice(None)) -> None:
        """Records the losses of a local step of these hosted workers."""
        self._runner.roll_call.note_losses(losses, workers)

    def note_samples(self, samples: Tensor, workers: slice = slice(None)) -> None:
        """Records the samples of a local step of these hosted workers, if they are counted."""
        self._runner.roll_call.counts.add_samples(samples, workers)

    def note_norms(self, norms: Tensor) -> None:
        """Records the norms of the next step's gradients, (K, L), before they are clipped."""
        self._norms = norms

    def local_step(self, workers: slice = slice(None)) -> None:
        """Called after these hosted workers' optimizer steps; runs the rounds that are due."""
        self.keeper.overwritten.drop()
        noted, self._norms = self._norms, None
        left = self._progress.left(workers, self.step)
        self._runner.local_steps.note(workers, noted, self._timetable.share, left)
        self._clock.stepped(workers)
        self._progress.advance(workers, self.step)
        self._due.stepped()
        if self._is_due():
            self.resolve_skips()
        while self._is_due() and self._all_joined(workers):
            self._due.begin()

    def _is_due(self) -> bool:
        """Whether a round is due, as far as this process knows."""
        return self._timetable.is_due(self._progress.position(self.step))

    def resolve_skips(self) -> None:
        """Subtracts local steps that optimizers turned out to have skipped."""
        skipped = self.take_skipped()
        if skipped is None:
            return
        self._runner.roll_call.counts.subtract_steps(skipped)
        self._progress.uncount(skipped)

    def fail(self, message: str) -> NoReturn:
        """Raises on every process, because this one can't continue.

        Raises:
            UserError: with this message here, and on the others with one that names this worker.
        """
        self.finish()
        self._meetings.tell_failure(self._timetable.fragment)
        raise UserError(message)

    def _all_joined(self, workers: slice) -> bool:
        """Whether all hosted workers wait for the round, which they join one after another."""
        self.waiting[workers] = [True] * len(self.waiting[workers])
        if not all(self.waiting):
            return False
        self.waiting[:] = [False] * len(self.waiting)
        return True

    def share_gradients(self) -> None:
        """Replaces gradients by the mean over all workers, before `step()`; collective."""
        if self.comm.num_workers == 1:
            return
        roll = self._meetings.meet(Purpose.GRADIENTS).roll
        self._sharing.share(self._runner.judge(roll).active, roll.has_gradient)
        self._clock.arrive(self._clock.finished())

    def synchronize(self) -> None:
        """Synchronises all fragments now; every process must call it."""
        self.finish()
        self._runner.reporter.local_steps_end(self._clock.now())
        for _ in self._runner.fragments:
            self._meetings.meet(Purpose.SYNCHRONIZE)
        self._runner.reporter.local_steps_begin(self._clock.now())

    def leave(self) -> None:
        """Keeps joining what the others call until all have finished; then averages once more."""
        self.finish()
        self._runner.reporter.local_steps_end(self._clock.now())
        for _ in self._runner.fragments:
            self._meetings.meet(Purpose.LEAVING)
        self._has_left = True
        self._release()

    def _release(self) -> None:
        """Lets go of connections that may never be needed again; they come back if they are."""
        if self._has_left:
            self.assembly.leave()
            for transport in self._transports:
                transport.release()

    def consensus(self) -> dict[str, Tensor]:
        """The strategy's consensus, name -> tensor; every process must call it."""
        self.finish()
        before = self.comm.bytes_sent
        found = self._meetings.meet(Purpose.CONSENSUS).consensus
        assert found is not None, "it was served"
        self._leave_out_since(before)
        return found

    def gather(self, value: float) -> Tensor:
        """Gathers a number from every worker: (N,), float64; every process must call it."""
        before = self.comm.bytes_sent
        values = self._meetings.meet(Purpose.VALUES, value).roll.values
        self._leave_out_since(before)
        return values

    def _leave_out_since(self, bytes_before: int) -> None:
        """Leaves messages that are not training, sent since then, out of times and bytes."""
        self._clock.disregard()
        self._runner.reporter.disregard(self.comm.bytes_sent - bytes_before)
        self._release()

    def finish(self) -> None:
        """Applies the round in the background, if there is one."""
        self._due.finish()

    def state_dict(self) -> dict[str, Any]:
        """What must be saved so that training resumes bit for bit; ends a round under way."""
        self.finish()
        return self.keeper.state_dict() | NOT_FOR_DCP

    def load_state_dict(self, state: dict[str, Any], *, strict: bool = True) -> None:
        """Restores what `state_dict` returned; every process must call it with its own.

        Args:
            state: what was saved.
            strict: whether settings must be the same as when it was saved.

        If one process can't load its state, all raise `UserError`, and nothing has changed. Elastic
        workers load alone, before they join the others.
        """
        self.together(Purpose.LOADING, lambda _: self.keeper.load(state, strict=strict))

    def together(self, purpose: Purpose, job: Callable[[Agreement], Result]) -> Result:
        """Does something when all processes have come for it; joins their rounds until then.

        Args:
            purpose: what they come for.
            job: what is then done; its argument lets the processes fail together.

        Returns:
            What `job` returns.

        Raises:
            UserError: if an elastic worker would go back while the others go on.
        """
        if self.assembly.job and purpose in (Purpose.LOADING, Purpose.RESTORING):
            raise UserError(
                "this worker has joined the others already, who would be further than what is "
                "restored: with elastic=, restore before the `with` block, or attach()"
            )
        self.finish()
        before = self.comm.bytes_sent
        self.keeper.agreement.come(purpose)
        found = job(self.keeper.agreement)
        self._leave_out_since(before)
        return found
