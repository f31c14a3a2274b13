"""The driver: it hangs on the user's optimizer and leaves the training loop alone."""

import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from grawa.comm.distributed import DEFAULT_TIMEOUT
from grawa.errors import UserError
from grawa.guard import Guard
from grawa.protocols import Strategy
from grawa.replicas import Replicas
from grawa.roll import Calls, Roll, RollCall
from grawa.round_report import Reporter, RoundReport
from grawa.rounds import Rounds
from grawa.schedule import Every
from grawa.start import check_alike, connect

OnRound = Callable[[RoundReport], None]


class Averager:
    """Trains with other workers: counts optimizer steps and runs a round every so many of them.

    The loop, the scheduler, gradient accumulation, AMP and closures stay your own. Start the
    script with `torchrun` and open its process group with `grawa.distributed()` or your own
    way; without one it runs as a single worker and does no harm. Every
    process must make the same calls of this object. Construction gives every worker the
    parameters and buffers of worker 0.

    Args:
        model: the model, where it is to train; or K models, if this process hosts K workers.
        optimizer: holds the model's trainable parameters; or K optimizers. With K of them, do all
            backward passes before the first optimizer's step, and the steps in order.
        strategy: how workers are pulled together, such as `grawa.LGRAWA()`.
        sync_every: optimizer steps between rounds.
        guard: keeps workers that go wrong from ruining the others; `None` turns it off.
        buffers: "average" averages floating-point buffers with equal weights and takes the
            maximum of the others, at each round; "local" leaves them to each worker.
        process_group: who averages; all processes by default.
        worker_group: the processes that this worker is made of, if they are several, because the
            model is wrapped in DDP or FSDP. They then share the worker's loss and fate; who
            averages are the processes of the same place in each worker's group.
        timeout: how long a message may wait for the others before the run fails.
        measure_distance: whether round reports carry the consensus distance, for one more pass
            over the parameters per round.
        on_round: called with a `RoundReport` after each round.

    Raises:
        UserError: if something does not fit, on every process alike.

    >>> import grawa
    >>> model = nn.Linear(2, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> with Averager(model, optimizer, grawa.LGRAWA(), sync_every=2) as averager:
    ...     for _ in range(4):
    ...         optimizer.zero_grad(); model(torch.ones(1, 2)).sum().backward(); optimizer.step()
    >>> averager.round
    2
    """

    def __init__(
        self,
        model: nn.Module | Sequence[nn.Module],
        optimizer: Optimizer | Sequence[Optimizer],
        strategy: Strategy,
        *,
        sync_every: int = 32,
        guard: Guard | None = Guard(),
        buffers: Literal["average", "local"] = "average",
        process_group: dist.ProcessGroup | None = None,
        worker_group: dist.ProcessGroup | None = None,
        timeout: timedelta = DEFAULT_TIMEOUT,
        measure_distance: bool = False,
        on_round: Sequence[OnRound] = (),
    ) -> None:
        models = [model] if isinstance(model, nn.Module) else list(model)
        optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
        if worker_group is not None and (len(models) > 1 or process_group is None):
            raise UserError(
                "where a worker is several processes, each hosts that worker only, and "
                "process_group must say who averages: the processes of the same place in each"
            )
        self._comm = connect(process_group, len(models), timeout)
        options = f"{strategy} {sync_every} {guard} {buffers} {measure_distance}"

        def build() -> Replicas:
            if not isinstance(strategy, Strategy):
                raise UserError(f"strategy must be a value, grawa.LGRAWA() say, got {strategy!r}")
            if buffers not in ("average", "local"):
                raise UserError(f'buffers must be "average" or "local", got {buffers!r}')
            self._schedule = Every(sync_every)
            return Replicas(models, optimizers, worker_group)

        self._replicas = check_alike(
            self._comm,
            build,
            models,
            re.sub(r" at 0x[0-9a-f]+", "", options),  # functions' addresses differ
        )
        self.strategy = strategy
        self._roll_call = RollCall(
            self._replicas,
            self._comm,
            None if worker_group is None else connect(worker_group, 1, timeout),
            score=strategy.score,
            groups=strategy.groups(self._replicas.names),
            shares_gradients=strategy.shares_gradients(0),
        )
        self._rounds = Rounds(
            self._replicas,
            strategy,
            self._comm,
            guard,
            with_buffers=buffers == "average",
            measure_distance=measure_distance,
        )
        self._reporter = Reporter(self._comm)
        self._on_round = list(on_round)
        self._handles: list[RemovableHandle] = []
        self._knows_losses = strategy.score is None or not strategy.score.needs_losses
        self.step = 0
        self.round = 0

    @property
    def num_workers(self) -> int:
        """N."""
        return self._comm.num_workers

    @property
    def bytes_sent(self) -> int:
        """Bytes of payload that have been sent, per hosted worker."""
        return self._comm.bytes_sent

    def __enter__(self) -> Self:
        self.attach()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.detach()
        else:
            self._remove_hooks()

    def attach(self) -> None:
        """Starts to count the optimizer's steps.

        Raises:
            UserError: if it is attached already.
        """
        if self._handles:
            raise UserError("this Averager is attached already; detach() it first")
        optimizers = self._replicas.optimizers
        if self.strategy.shares_gradients(0):
            self._handles.append(optimizers[0].register_step_pre_hook(self._before_step))
        self._handles.append(optimizers[-1].register_step_post_hook(self._after_step))
        self._reporter.local_steps_begin()

    def detach(self) -> None:
        """Takes part in the others' last rounds, and in one for the last steps of all.

        Workers may have made different numbers of steps, because their data ran out or because a
        `GradScaler` skipped some: who has finished goes on taking part until all have.
        """
        self._remove_hooks()
        while True:
            roll = self._call(Calls.LEAVING)
            if bool((roll.calls == Calls.GRADIENTS).any()):
                self._rounds.share_gradients(roll, self.step)  # says who has stopped
            all_leave = bool((roll.calls == Calls.LEAVING).all())
            if not all_leave or bool((roll.new_steps > 0).any()):
                self._run_round(roll)
            if all_leave:
                return

    def _remove_hooks(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def record_loss(self, loss: Tensor) -> None:
        """Tells the worker's training loss of this local step; before `optimizer.step()`.

        `LSGD` needs it, and so does the guard's loss gate. Nothing is moved between devices.

        Args:
            loss: a scalar; or (K,), the hosted workers' losses.

        Raises:
            UserError: if it is something else.
        """
        if not isinstance(loss, Tensor) or loss.numel() != self._comm.num_hosted:
            raise UserError(
                f"record_loss takes a tensor with one loss for each of the "
                f"{self._comm.num_hosted} hosted workers, got {loss!r}"
            )
        self._roll_call.note_losses(loss.detach().reshape(self._comm.num_hosted))
        self._knows_losses = True

    def barrier(self) -> None:
        """Waits until every process has called it."""
        self._comm.gather(torch.zeros(self._comm.num_hosted, 1))()

    def synchronize(self) -> None:
        """Runs a round now; every process must call it."""
        self._run_round(self._call(Calls.ROUND))

    def consensus(self) -> dict[str, Any]:
        """The one model to evaluate, save and serve, as a state dict; every process must call it.

        Workers whose parameters are not finite have no part in it. With `buffers="local"`, and
        between rounds, buffers are this worker's own, so let one process save it.

        Returns:
            The first hosted model's `state_dict()`, copied, with the consensus's parameters.
        """
        roll = self._call(Calls.CONSENSUS)
        with torch.no_grad():
            return self._replicas.state_dict_of(self._rounds.consensus(roll))

    @contextmanager
    def consensus_applied(self) -> Generator[nn.Module]:
        """The first hosted model with the consensus's parameters, for an evaluation.

        Every process must enter it. The worker's own parameters are back afterwards.

        Yields:
            The model.
        """
        model = self._replicas.models[0]
        own = self._replicas.state_dict_of({})
        model.load_state_dict(self.consensus())
        try:
            yield model
        finally:
            model.load_state_dict(own)

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not self.strategy.shares_gradients(self.step):
            return
        if args[1:] or kwargs.get("closure") is not None:
            raise UserError(
                "this strategy averages gradients before the optimizer's step, which an optimizer "
                "that calls a closure makes inside it: call backward() first, and step() without"
            )
        with torch.no_grad():
            self._rounds.share_gradients(self._call(Calls.GRADIENTS), self.step)

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        with torch.no_grad():
            self._roll_call.note_step()
            self.step += 1
            self._rounds.drift(self._schedule.share)
        if self._schedule.is_due(self.step):
            self._run_round(self._call(Calls.ROUND))

    def _call(self, purpose: Calls) -> Roll:
        if purpose is Calls.ROUND and not self._knows_losses:
            raise UserError(
                f"{type(self.strategy).__name__} ranks workers by their training loss: call "
                "averager.record_loss(loss) before optimizer.step()"
            )
        self._reporter.round_begins()
        with torch.no_grad():
            roll = self._roll_call.call(purpose)
        self._reporter.all_are_there()
        return roll

    def _run_round(self, roll: Roll) -> None:
        with torch.no_grad():
            outcome = self._rounds.run(roll)
            self._roll_call.restart()
        self.round += 1
        report = self._reporter.report(self.round, self.step, roll, outcome)
        for callback in self._on_round:
            callback(report)

    def state_dict(self) -> dict[str, Any]:
        """What this process must save, beside model and optimizer, to resume bit for bit."""
        return {
            "step": self.step,
            "round": self.round,
            "strategy": self._rounds.state_dict(),
            "roll": self._roll_call.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave, from the same strategy; else raises `UserError`."""
        self._rounds.load_state_dict(state["strategy"])
        self._roll_call.load_state_dict(state["roll"])
        self.step, self.round = state["step"], state["round"]
        self._knows_losses |= self.step > 0
