"""The driver: it hangs on the user's optimizer and leaves the training loop alone."""

import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Literal, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from grawa.comm.distributed import DEFAULT_TIMEOUT
from grawa.errors import UserError
from grawa.math.codec import Precision
from grawa.rounds.clock import Clock, WallClock
from grawa.rounds.engine import Synchronizer
from grawa.rounds.guard import Guard
from grawa.rounds.plan import RoundPlan
from grawa.rounds.report import RoundReport
from grawa.rounds.schedule import Schedule
from grawa.strategies.protocol import Strategy
from grawa.workers.replicas import Replicas
from grawa.workers.start import check_alike, connect

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
        schedule: when rounds are due, in place of `sync_every`: `grawa.SharedCount(32)` say.
        overlap_steps: for how many local steps a round may go on in the background. It runs on a
            copy of the parameters, and what it would have moved them by is added that many steps
            later. Takes memory for two copies of the parameters, and for what the strategy keeps.
        fragments: in how many parts of nearly equal bytes the model is synchronised, one after
            the other at equal distances: the same bytes in all, a part at a time.
        comm_dtype: "bf16" or "int8": in what parameters travel, as differences from the
            last center; "int8" carries what is lost over to the next round.
        hook_every: after which local steps gradient norms are noted and the proximal pull is made,
            each by default. Every fourth, say, saves memory traffic where the optimizer's step is
            a large part of a local step; the pull is then four times as strong.
        guard: keeps workers that go wrong from ruining the others; `None` turns it off.
        buffers: "average" averages floating-point buffers with equal weights and takes the
            maximum of the others, at each round; "local" leaves them to each worker.
        process_group: who averages; all processes by default.
        worker_group: the processes that this worker is made of, if they are several, because the
            model is wrapped in DDP or FSDP. They then share the worker's loss and fate; who
            averages are the processes of the same place in each worker's group.
        timeout: how long a message may wait for the others before the run fails.
        shared_memory: whether processes of one machine, on the CPU, may read each other's
            parameters in place of sending them; then parameters lie in shared memory.
        measure_distance: whether round reports carry the consensus distance, for one more pass
            over the parameters per round.
        on_round: called with a `RoundReport` after each round.
        clock: what time it is for the workers; by default the wall's.

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
        schedule: Schedule | None = None,
        overlap_steps: int = 0,
        fragments: int = 1,
        comm_dtype: Precision | None = None,
        hook_every: int = 1,
        guard: Guard | None = Guard(),
        buffers: Literal["average", "local"] = "average",
        process_group: dist.ProcessGroup | None = None,
        worker_group: dist.ProcessGroup | None = None,
        timeout: timedelta = DEFAULT_TIMEOUT,
        shared_memory: bool = True,
        measure_distance: bool = False,
        on_round: Sequence[OnRound] = (),
        clock: Clock | None = None,
    ) -> None:
        models = [model] if isinstance(model, nn.Module) else list(model)
        optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
        if worker_group is not None and (len(models) > 1 or process_group is None):
            raise UserError(
                "where a worker is several processes, each hosts that worker only, and "
                "process_group must say who averages: the processes of the same place in each"
            )
        clock = WallClock() if clock is None else clock
        comm = clock.meter(
            connect(
                process_group,
                len(models),
                timeout,
                device=next((p.device for p in models[0].parameters()), torch.device("cpu")),
                shared_memory=shared_memory,
            )
        )
        options: dict[str, Any] = {
            "strategy": strategy,
            "schedule": schedule,
            "sync_every": sync_every,
            "guard": guard,
            "buffers": buffers,
            "measure_distance": measure_distance,
            "overlap_steps": overlap_steps,
            "fragments": fragments,
            "comm_dtype": comm_dtype,
            "hook_every": hook_every,
            "individually": clock.individual and getattr(schedule, "counts_together", False),
        }
        self._replicas, plan = check_alike(
            comm,
            lambda: (
                Replicas(models, optimizers, worker_group),
                RoundPlan.of(**options),
            ),
            models,
            re.sub(r" at 0x[0-9a-f]+", "", str(options)),  # functions' addresses differ
        )
        worker = None if worker_group is None else connect(worker_group, 1, timeout)
        self._rounds = Synchronizer(
            self._replicas, comm, worker, plan, clock, partial(_tell, tuple(on_round))
        )
        self._comm = comm
        self._individually = plan.individually
        self.strategy = strategy
        self._handles: list[RemovableHandle] = []
        self._knows_losses = strategy.score is None or not strategy.score.needs_losses

    @property
    def num_workers(self) -> int:
        """N."""
        return self._comm.num_workers

    @property
    def bytes_sent(self) -> int:
        """Bytes of payload that have been sent, per hosted worker."""
        return self._comm.bytes_sent

    @property
    def step(self) -> int:
        """Optimizer steps made; with several hosted workers, by the foremost."""
        return self._rounds.step

    @property
    def steps(self) -> list[int]:
        """Optimizer steps made by each hosted worker."""
        return self._rounds.steps

    @property
    def total_steps(self) -> int:
        """Optimizer steps of all workers, as far as this process knows."""
        return self._rounds.total_steps

    @property
    def round(self) -> int:
        """Rounds made."""
        return self._rounds.round

    @property
    def steps_individually(self) -> bool:
        """Whether each hosted worker steps by itself, in the order of the clock's times."""
        return self._individually

    @property
    def waiting(self) -> list[bool]:
        """Which hosted workers have joined a round and must not step before it is over.

        Only where they step individually: by a clock that gives each a time of its own, with
        steps that are counted together.
        """
        return self._rounds.waiting

    @property
    def replicas(self) -> Replicas:
        """The hosted workers' models and optimizers, with their parameters as stacks."""
        return self._replicas

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
        for k, optimizer in enumerate(optimizers):
            if self._individually:
                hook = partial(self._after_step, slice(k, k + 1))
            elif k == len(optimizers) - 1:
                hook = partial(self._after_step, slice(None))
            else:
                continue
            self._handles.append(optimizer.register_step_post_hook(hook))
        self._rounds.local_steps_begin()

    def detach(self) -> None:
        """Takes part in the others' last rounds, and in one for the last steps of all.

        Workers may have made different numbers of steps, because their data ran out or because a
        `GradScaler` skipped some: who has finished goes on taking part until all have. A round
        that is under way is finished.
        """
        self._remove_hooks()
        with torch.no_grad():
            self._rounds.leave()

    def _remove_hooks(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def record_loss(self, loss: Tensor, worker: int | None = None) -> None:
        """Tells the worker's training loss of this local step; before `optimizer.step()`.

        `LSGD` needs it, and so does the guard's loss gate. Nothing is moved between devices.

        Args:
            loss: a scalar; or (K,), the hosted workers' losses.
            worker: the hosted worker whose loss it is, if only one makes this step.

        Raises:
            UserError: if it is something else.
        """
        who = slice(None) if worker is None else slice(worker, worker + 1)
        expected = self._comm.num_hosted if worker is None else 1
        if not isinstance(loss, Tensor) or loss.numel() != expected:
            raise UserError(
                f"record_loss takes a tensor with one loss for each of the {expected} hosted "
                f"workers, got {loss!r}"
            )
        self._rounds.note_losses(loss.detach().reshape(expected), who)
        self._knows_losses = True

    def barrier(self) -> None:
        """Waits until every process has called it."""
        self.gather(0.0)

    def gather(self, value: float) -> Tensor:
        """Every worker's value, (N,), float64; every process must call it with one of its own."""
        return self._rounds.gather(value)

    def synchronize(self) -> None:
        """Runs a round now, of every fragment; every process must call it."""
        self._check_losses()
        with torch.no_grad():
            self._rounds.make_rounds()

    def consensus(self) -> dict[str, Any]:
        """The one model to evaluate, save and serve, as a state dict; every process must call it.

        Workers whose parameters are not finite have no part in it. With `buffers="local"`, and
        between rounds, buffers are this worker's own, so let one process save it. A round that is
        under way is finished first.

        Returns:
            The first hosted model's `state_dict()`, copied, with the consensus's parameters.
        """
        with torch.no_grad():
            return self._replicas.state_dict_of(self._rounds.consensus())

    @contextmanager
    def consensus_applied(self) -> Generator[nn.Module]:
        """The first hosted model with the consensus's parameters, for an evaluation.

        Every process must enter it. The worker's own parameters are back afterwards.

        Yields:
            The model.
        """
        model = self._replicas.models[0]
        consensus = self.consensus()
        own = self._replicas.state_dict_of({})
        model.load_state_dict(consensus)
        try:
            yield model
        finally:
            model.load_state_dict(own)

    def step_together(self, move: Callable[[], object]) -> None:
        """A local step of all hosted workers at once, in place of their optimizers' own steps.

        The optimizers still say what the learning rates are, and their state is cleared when a
        worker starts again.

        Args:
            move: moves all hosted workers' parameters by their gradients.
        """
        self._share_gradients()
        move()
        self._stepped(slice(None))

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        has_closure = args[1:] or kwargs.get("closure") is not None
        if has_closure and self.strategy.shares_gradients(self.step):
            raise UserError(
                "this strategy averages gradients before the optimizer's step, which an optimizer "
                "that calls a closure makes inside it: call backward() first, and step() without "
                "(with SAM, the second backward() within `with optimizer.perturbed():`)"
            )
        self._share_gradients()

    def _share_gradients(self) -> None:
        if self.strategy.shares_gradients(self.step):
            with torch.no_grad():
                self._rounds.share_gradients()

    def _after_step(self, who: slice, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._stepped(who)

    def _stepped(self, who: slice) -> None:
        self._check_losses()
        with torch.no_grad():
            self._rounds.local_step(who)

    def _check_losses(self) -> None:
        if not self._knows_losses:
            raise UserError(
                f"{type(self.strategy).__name__} ranks workers by their training loss: call "
                "averager.record_loss(loss) before optimizer.step()"
            )

    def state_dict(self) -> dict[str, Any]:
        """What this process must save, beside model and optimizer, to resume bit for bit.

        A round that is under way is finished first: call it on every process at the same step, and
        before you save the model.

        Returns:
            Plain values and tensors.
        """
        with torch.no_grad():
            return self._rounds.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave, from the same strategy; else raises `UserError`."""
        with torch.no_grad():
            self._rounds.load_state_dict(state)
        self._knows_losses |= self.step > 0


def _tell(callbacks: Sequence[OnRound], report: RoundReport) -> None:
    for callback in callbacks:
        callback(report)
