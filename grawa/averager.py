"""The driver: hooks on the user's optimizers count steps and run rounds; the loop stays theirs."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.optim import Optimizer

from grawa.checkpoints.own_loop import Checkpoints, Extra, Place, Resize
from grawa.comm.distributed import DEFAULT_TIMEOUT
from grawa.comm.elastic import Elastic
from grawa.durations import Duration, positive
from grawa.math.codec import Precision
from grawa.modes import evaluating, undisturbed
from grawa.rounds.clipping import clip_gradients, note_norms
from grawa.rounds.clock import WallClock
from grawa.rounds.guard import Guard
from grawa.rounds.origin import described, told
from grawa.rounds.plan import RoundPlan
from grawa.rounds.records import Records
from grawa.rounds.report import OnRound, warn_of_absences
from grawa.rounds.schedule import Every, Schedule
from grawa.rounds.setup import backend_of, group_of, ranks_by_host, set_up
from grawa.scores.groups import Grouping
from grawa.strategies.protocol import Strategy
from grawa.workers.checks import check_connected, is_one_of_several, with_warning
from grawa.workers.hooks import MISSED_ALL_STEPS, StepHooks
from grawa.workers.replicas import per_model


class Averager:
    """Trains with other workers: counts optimizer steps and runs a round every so many of them.

    The loop, the scheduler, gradient accumulation, AMP and closures stay your own. Start the
    script with `torchrun`, and open its process group before you construct an Averager, with
    `grawa.distributed()` or in your own way. Without a process group there is a single worker,
    which trains exactly as without the Averager. Every process must make the same calls of this
    object, but not at the same step. Construction gives every worker the parameters and buffers of
    worker 0.

    Args:
        model: the model, on the device on which it trains; or K models, if this process hosts K
            workers. It may be compiled, or wrapped by Accelerate or Lightning Fabric.
        optimizer: holds the model's trainable parameters. Several optimizers for one model (Muon
            for matrices, AdamW for the rest) come as a list; a step is counted when the last one
            steps. For K models, K optimizers or K lists; do all backward passes before the first
            optimizer's step, and call the optimizers in the order of the models.
        strategy: how workers are averaged, such as `grawa.LGRAWA()`.
        sync_every: optimizer steps between rounds.
        schedule: when rounds are due, in place of `sync_every`, such as `grawa.SharedCount(32)`.
        overlap_steps: for how many local steps a round may run in the background. It runs on a
            copy of the parameters, and its change is added to the parameters that many steps
            later. Needs memory for two copies of the parameters, and for the strategy's state.
        alpha: when a round has run in the background, workers become alpha times themselves plus
            1 - alpha times what the round has made of them, as in streaming DiLoCo (0.5 there); by
            default what the round has changed is added to them.
        fragments: number of parts, of nearly equal bytes, in which the model is synchronised, one
            after another at equal distances. The total number of bytes is the same, but each
            message is smaller. Or a function that gives each parameter its part, such as
            `grawa.by_block` for transformer blocks.
        comm_dtype: how parameters are sent, as differences from the last center: as "bf16" or
            "int8", or only the largest of them with `grawa.TopK()`. With the last two, what is lost
            is added to the next round's differences.
        center: "cpu" to keep what the strategy keeps between rounds (the center, an outer
            optimizer's momentum) in the CPU's memory while GPUs make local steps. Every round then
            copies it there and back. Needs a strategy with `prox=0`.
        weigh_by: "steps" or "samples" multiplies each worker's weight in a round's means by the
            local steps, or the samples, that it has made since the last round: for workers that
            make different numbers of them, as with `grawa.SharedCount`, or with batches of
            different sizes. One that has made none has no weight; where none has made any,
            weights stay as they are. "samples" needs `record_samples`.
        guard: keeps workers that go wrong from ruining the others; `None` turns it off.
        buffers: "average" averages persistent buffers that change, at each round: floating-point
            ones with equal weights, others take the maximum; "local" leaves them to each worker.
        optimizer_state: what rounds do with the momentum and other moments that the optimizers
            keep. "local" leaves them to each worker; "average" averages them with equal weights, in
            full precision, and each worker keeps its own count of steps; "reset" clears them and
            that count.
        optimizer_state_every: rounds, of each fragment, from one in which that is done to the next.
        process_group: the processes that average, as a process group or a one-dimensional
            `DeviceMesh`; all by default.
        worker_group: the processes that this worker consists of, if they are several because the
            model is wrapped in DDP or FSDP. They share the worker's loss and are reset together.
            `process_group` must then be the processes with the same rank in each worker's group.
        timeout: how long a message may wait for the others before the run fails: a timedelta,
            seconds, or a text such as "10m".
        shared_memory: whether processes of one machine, on the CPU, may exchange messages in
            shared memory in place of sockets.
        hosts: the ranks of each host, or a two-dimensional `DeviceMesh` of hosts x processes.
            Processes of a host average among themselves first, and each host sends as little as
            possible to the others. By default processes that share a machine and its network are
            one host; `arrangement` says what was found.
        between_hosts: "gloo" to send from one host to another by gloo, from the CPU's memory, while
            processes of a host use the process group's own backend, such as NCCL: for links that
            NCCL can't use, or not well. It needs nothing of the process group.
        elastic: lets workers die, come back and come late, see `Elastic`. Processes then find each
            other by a lighthouse, without a process group; `hosts` names workers in place of ranks,
            and construction leaves parameters as they are: a worker gets those of the others when
            the `with` block is entered. `step` and `round` are then those of the job.
        measure_distance: whether round reports include the consensus distance, which costs one
            more pass over the parameters per round, and with it, for little more, the cosine
            between successive moves of the center and the spread of displacements.
        on_round: called with a `RoundReport` after each round; one callable or several.

    Raises:
        UserError: on every process, if models, optimizers and options don't fit together.

    >>> import grawa, torch
    >>> models = [nn.Linear(2, 1), nn.Linear(2, 1)]  # two workers in this process
    >>> optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    >>> with Averager(models, optimizers, grawa.LGRAWA(), sync_every=2) as averager:
    ...     for _ in range(4):
    ...         for model in models: model(torch.rand(1, 2)).sum().backward()
    ...         for optimizer in optimizers: optimizer.step()
    >>> averager.round
    2
    """

    def __init__(
        self,
        model: nn.Module | Sequence[nn.Module],
        optimizer: Optimizer | Sequence[Optimizer] | Sequence[Sequence[Optimizer]],
        strategy: Strategy,
        *,
        sync_every: int = 32,
        schedule: Schedule | None = None,
        overlap_steps: int = 0,
        alpha: float | None = None,
        fragments: int | Grouping = 1,
        comm_dtype: Precision | None = None,
        center: Literal["cpu"] | None = None,
        weigh_by: Literal["steps", "samples"] | None = None,
        guard: Guard | None = Guard(),
        buffers: Literal["average", "local"] = "average",
        optimizer_state: Literal["local", "average", "reset"] = "local",
        optimizer_state_every: int = 1,
        process_group: dist.ProcessGroup | DeviceMesh | None = None,
        worker_group: dist.ProcessGroup | DeviceMesh | None = None,
        timeout: Duration = DEFAULT_TIMEOUT,
        shared_memory: bool = True,
        hosts: Sequence[Sequence[int]] | DeviceMesh | None = None,
        between_hosts: Literal["gloo"] | None = None,
        elastic: Elastic | None = None,
        measure_distance: bool = False,
        on_round: OnRound | Sequence[OnRound] = (),
    ) -> None:
        models = [model] if isinstance(model, nn.Module) else list(model)
        plan = partial(
            RoundPlan,
            strategy=strategy,
            schedule=Every(sync_every) if schedule is None else schedule,
            overlap_steps=overlap_steps, alpha=alpha, fragments=fragments, comm_dtype=comm_dtype,
            center=center, weigh_by=weigh_by, guard=guard, buffers=buffers,
            optimizer_state=optimizer_state, optimizer_state_every=optimizer_state_every,
            measure_distance=measure_distance, elastic=elastic is not None,
        )  # fmt: skip
        with undisturbed():
            self._engine = set_up(
                models, per_model(optimizer, one=isinstance(model, nn.Module)),
                plan, described(plan.keywords),
                process_group=group_of(process_group), worker_group=group_of(worker_group),
                timeout=positive(timeout, "timeout"), shared_memory=shared_memory,
                hosts=ranks_by_host(hosts), between_hosts=backend_of(between_hosts),
                elastic=elastic, clock=WallClock(),
                tell=(warn_of_absences, *([on_round] if callable(on_round) else on_round)),
            )  # fmt: skip
        self._checkpoints = Checkpoints(self._engine)
        self._connected = elastic is not None or is_one_of_several()
        share = self._before_step if strategy.shares_gradients(0) else None
        self._has_shared = False
        self._hooks = StepHooks(self._engine.replicas, share, self._after_step)
        self._engine.take_skipped = self._hooks.take_skipped
        self._records = Records(self._engine)

    def __repr__(self) -> str:
        numbers = f"workers={self.num_workers}, step={self.step}, round={self.round}"
        return f"Averager({told(self._engine.plan)}, {numbers})"

    @property
    def num_workers(self) -> int:
        """N."""
        return self._engine.comm.num_workers

    @property
    def arrangement(self) -> str:
        """How the workers reach each other, in words."""
        return self._engine.comm.arrangement

    @property
    def bytes_sent(self) -> int:
        """Bytes of payload sent so far, per hosted worker."""
        return self._engine.comm.bytes_sent

    @property
    def step(self) -> int:
        """Optimizer steps; with several hosted workers, of the one that has made the most."""
        return self._engine.step

    @property
    def total_steps(self) -> int:
        """Optimizer steps of all workers, as far as this process knows, as in `SharedCount`."""
        return self._engine.total_steps

    @property
    def round(self) -> int:
        """Rounds so far."""
        return self._engine.round

    @property
    def stopping(self) -> bool:
        """Whether training is to end now, since a process has called `request_stop`.

        It becomes true on all processes by the same round, between two local steps at which no
        round is in the background: a checkpoint that is saved then goes on bit for bit.
        """
        return self._engine.stopping

    def request_stop(self) -> None:
        """Asks that training ends: `stopping` becomes true on all processes after the next round.

        It sets a flag, which travels with what processes tell each other before each round, and
        changes nothing else; so a signal handler, a callback or another thread may call it, on one
        process or on several. An elastic worker that calls it stops alone, and the others go on.
        """
        self._engine.request_stop()

    def __enter__(self) -> Self:
        self.attach()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.detach()
        else:
            self._hooks.remove()
            self._engine.abandon()

    def attach(self) -> None:
        """Starts to count the optimizers' steps; refuses those whose steps can't be counted.

        An elastic worker waits here for the others, and gets their state if they are further.
        """
        check_connected(self._connected)
        self._hooks.attach()
        with undisturbed():
            self._engine.local_steps_begin()

    def detach(self) -> None:
        """Stops counting; joins the others' rounds until all have finished, and a last one.

        Workers may have made different numbers of steps, because their data ran out or because a
        `GradScaler` skipped some. A worker that has finished keeps taking part in rounds until all
        have; then the steps since the last round are averaged in one more. If parameters have
        changed but no step was counted, every process raises a `UserError`.
        """
        self._hooks.remove()
        check_connected(self._connected)
        with undisturbed():
            if self._hooks.missed_all_steps():
                self._engine.fail(MISSED_ALL_STEPS)
            self._engine.resolve_skips()
            self._engine.leave()
            self._checkpoints.finish()

    def record_loss(self, loss: Tensor | float) -> None:
        """Records the worker's training loss of this local step; call it before `optimizer.step()`.

        `LSGD` needs it, and so does the guard to leave out workers with a large loss. A tensor
        stays on its device, so nothing waits for the GPU.

        Args:
            loss: a scalar tensor or a number; or (K,), the hosted workers' losses. `UserError` for
                anything else.
        """
        self._records.loss(loss)

    def record_samples(self, samples: int | Sequence[int] | Tensor) -> None:
        """Records how many samples the worker trains on in this local step.

        Only `weigh_by="samples"` needs it. Call it before `optimizer.step()`, with gradient
        accumulation for each batch: numbers of one step are added.

        Args:
            samples: of a batch, such as `len(inputs)`; with several hosted workers one number for
                all, or one for each. `UserError` for anything else.
        """
        self._records.samples(samples)

    def clip_grad_norm_(self, max_norm: float) -> Tensor:
        """Clips each worker's gradients by their norm, and records the norms before clipping.

        Use it in place of `torch.nn.utils.clip_grad_norm_`, after which all workers would have
        nearly the same gradient norms and so the same weight. Call it where you would call that
        one: after `backward()`, and after `scaler.unscale_(optimizer)` if there is a scaler.

        Args:
            max_norm: gradients of a larger L2 norm, over the whole model, are scaled down to it;
                `UserError` if it is not positive.

        Returns:
            The norm before clipping, a scalar; with K hosted workers (K,).
        """
        with undisturbed():
            return clip_gradients(self._engine, max_norm)

    def note_grad_norms(self) -> None:
        """Records each worker's gradient norms as they are now, before something else clips them.

        Call it where a framework clips, after `backward()`; in a loop of your own,
        `clip_grad_norm_` does both.
        """
        with undisturbed():
            note_norms(self._engine)

    def share_gradients(self) -> None:
        """Averages the gradients now if the strategy does so at this step; every process calls it.

        `DataParallel` does, and others during a warm-up. Call it before you clip, so that the mean
        is clipped, as with DDP. Without this call, `optimizer.step()` does it.
        """
        if self._engine.plan.strategy.shares_gradients(self.step):
            with undisturbed():
                self._engine.share_gradients()
            self._has_shared = True

    def synchronize(self) -> None:
        """Runs a round now, of every fragment; every process must call it."""
        self._records.check()
        with self._caught_up():
            self._engine.synchronize()

    def consensus(self) -> dict[str, Any]:
        """The one model to evaluate, save and serve, as a state dict; every process must call it.

        Processes need not call it at the same step: a process that calls first takes part in the
        others' rounds until they call it, too, or have finished. Workers whose parameters are not
        finite have no part in it, unless `guard=None`; a warning says if it is not finite. Buffers
        are this worker's own, which differ between workers with `buffers="local"` and between
        rounds, so save the result of one process only. A round in the background is finished first.

        Returns:
            A copy of the first hosted model's `state_dict()`, with the consensus's parameters.
        """
        with self._caught_up():
            return self._engine.replicas.state_dict_with(with_warning(self._engine.consensus()))

    @contextmanager
    def consensus_applied(self) -> Generator[nn.Module]:
        """The first hosted model with the consensus's parameters, for an evaluation.

        Every process must enter it. The model is in eval mode, without dropout; afterwards it has
        the worker's own parameters again, and each module its own mode. Buffers are not changed.

        Yields:
            The model, with its wrapper if it was given one.
        """
        with self._caught_up():
            consensus = with_warning(self._engine.consensus())
        with self._engine.replicas.holding(consensus) as model, evaluating(model):
            yield model

    def _before_step(self) -> None:
        if not self._has_shared:
            self.share_gradients()

    def _after_step(self) -> None:
        self._has_shared = False
        self._records.check()
        with undisturbed():
            self._engine.local_step()

    @contextmanager
    def _caught_up(self) -> Generator[None]:
        """Undisturbed by the user's modes, and with all steps counted that were made."""
        with undisturbed():
            self._engine.resolve_skips()
            yield

    def state_dict(self) -> dict[str, Any]:
        """What this process must save, beside model and optimizer, to resume bit for bit.

        Call it on every process at the same step, and before you save the model, since a round in
        the background is finished first and changes the parameters. It is for a file of each
        process: torch.distributed.checkpoint would mix the workers, so for it there is
        `grawa.integrations.DistributedState`.

        Returns:
            Plain values and tensors, copied.
        """
        with self._caught_up():
            return self._engine.state_dict()

    def load_state_dict(self, state: dict[str, Any], *, strict: bool = True) -> None:
        """Restores what `state_dict` returned; every process must call it with its own.

        Load the model and the optimizers too, before or after: what construction has replaced by
        worker 0's parameters comes back if the model was loaded before it.

        Args:
            state: what `state_dict` returned on this process.
            strict: whether numbers among the options, such as the guard's limits or `sync_every`,
                must be what they were when it was saved. Without it those given to the
                `Averager` count from now on, a new `sync_every` from the next round.

        If a process's state is not that of an Averager with the same workers, strategy, schedule,
        options and parameters, or if the states are not of the same round, every process raises
        `UserError`, and nothing has changed.
        """
        with undisturbed():
            self._engine.load_state_dict(state, strict=strict)

    def save(self, folder: Place, extra: Extra = None, *, keep: int = 3, wait: bool = True) -> Path:
        """Saves everything of all workers as a checkpoint; every process must call it.

        That is the hosted models' parameters and buffers, their optimizers' states, what
        `state_dict` returns, and the states of torch's default random generators. Processes need
        not call it at the same step. A checkpoint gets its name, `save-000001-round-00000032`, when
        all its files are on the disk, each with its checksum beside it. If a process can't
        write, as when the disk is full, every process raises `UserError`, and earlier checkpoints
        stay.

        Args:
            folder: for checkpoints. If hosts don't share it, each holds what its processes saved.
                Elastic workers, who save for themselves, have a folder `worker-K` each in it.
            extra: what else this process needs to go on, such as its epoch and the state dicts of
                its scheduler, `GradScaler` and data loader: plain values, tensors, and lists,
                tuples and dicts of them.
            keep: how many of the newest checkpoints stay.
            wait: whether it returns when the checkpoint is complete. Otherwise everything is copied
                to the CPU's memory and written in the background, while training goes on. It is
                complete after some more rounds, and at the latest after `finish_saving`, the next
                `save` or `restore`, or `detach`. Each of these raises what has gone wrong.

        Returns:
            The checkpoint's folder, when it is complete.
        """
        with self._caught_up():
            return self._checkpoints.save(folder, extra, keep, wait=wait)

    def finish_saving(self) -> None:
        """Waits for the checkpoint in the background, if any; every process must call it.

        If a process can't write, every process raises `UserError`.
        """
        with self._caught_up():
            self._checkpoints.finish()

    def restore(
        self, folder: Place, *, strict: bool = True, resize: Resize = False, fall_back: bool = False
    ) -> dict[str, Any] | None:
        """Restores the newest checkpoint that `save` wrote; every process must call it.

        Call it before training, or instead of going on; elastic workers, before they join the
        others, who may be further. Nothing in a file is ever executed. A checkpoint that is
        damaged, or of another job, is refused: then every process raises `UserError`, which names
        the one before it, and nothing has changed.

        With `resize` the workers, and the processes that host them, may be more or fewer than when
        it was saved. Workers that were saved go on as they were, on whatever process; new ones
        start at the center, or at the mean of the others if the strategy has none. What does not go
        on as it was is said in a warning.

        Args:
            folder: of the checkpoints; or a checkpoint in it, to go on from that one.
            strict: see `load_state_dict`.
            resize: whether there may be another number of workers or processes. New workers have
                fresh optimizers; with "donors" each has the optimizer state of the worker whose
                number is the same modulo the number of saved workers.
            fall_back: whether an older checkpoint is taken where the newest is damaged, with a
                warning; the damaged one is renamed to `NAME.unused`.

        Returns:
            This process's `extra`; with other numbers, that of the process of its first worker, or
            of this worker's donor. `None` if there is no checkpoint yet.
        """
        with undisturbed():
            return self._checkpoints.restore(
                folder, strict=strict, resize=resize, fall_back=fall_back
            )
