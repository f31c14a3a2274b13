"""The settings of a training run, apart from the task and the strategy."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from grawa.comm.elastic import Elastic
from grawa.errors import UserError
from grawa.lab.simulate.clock import VirtualClock
from grawa.lab.train.faults import Fault
from grawa.lab.train.optimizers import OptimizerChoice
from grawa.math.codec import Precision
from grawa.rounds.guard import Guard
from grawa.rounds.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a training run.

    Args:
        workers: N.
        steps: local steps of each worker, averaged over the workers if the schedule counts them
            together; `None` if a budget ends the training.
        epochs: passes over the smallest shard, in place of `steps`.
        budget: seconds after which training ends, at the nearest round; `None` for no limit. With
            a budget the learning rate falls with the elapsed time.
        until_error: training ends when the metric is at most this; `None` for no such end.
        evaluate_every: rounds between measurements of the consensus; 0 for none.
        schedule: when rounds are due.
        overlap_steps: as for `Averager`.
        alpha: as for `Averager`.
        fragments: as for `Averager`.
        comm_dtype: as for `Averager`.
        weigh_by: as for `Averager`.
        modelled: makes a virtual clock; `None` for wall-clock time.
        batch_size: samples per worker and step.
        lr: the initial learning rate.
        lr_schedule: "constant", or "cosine" down to zero at the end.
        optimizer: as for `grawa.lab.train.optimizers.OptimizerChoice.parse`.
        guard: decides which workers take part in rounds; `None` for all of them.
        buffers: as for `Averager`.
        optimizer_state: as for `Averager`.
        optimizer_state_every: as for `Averager`.
        shards: as for `grawa.lab.train.batches.shard`.
        faults: of all workers.
        dtype: of parameters and data.
        seed: of everything random.
        timeout: how long a message may wait for the others.
        elastic: who may come and go; `None` if all workers are there always.
        stack_workers: whether the workers of a process make their local steps in one batched pass:
            "on", "off", or "auto" if a timed trial shows that they are faster.
        swa: the last fraction of the run over which the consensus after each round is averaged;
            `None` for no average.
    """

    workers: int
    steps: int | None
    epochs: float | None
    budget: float | None
    until_error: float | None
    evaluate_every: int
    schedule: Schedule
    overlap_steps: int
    alpha: float | None
    fragments: int
    comm_dtype: Precision | None
    weigh_by: Literal["steps", "samples"] | None = None
    modelled: Callable[[], VirtualClock] | None
    batch_size: int
    lr: float
    lr_schedule: Literal["constant", "cosine"]
    optimizer: str
    guard: Guard | None
    buffers: Literal["average", "local"]
    optimizer_state: Literal["local", "average", "reset"] = "local"
    optimizer_state_every: int = 1
    shards: str
    faults: tuple[Fault, ...]
    dtype: Literal["float32", "float64"]
    seed: int
    timeout: timedelta
    elastic: Elastic | None = None
    stack_workers: Literal["auto", "on", "off"]
    swa: float | None

    def __post_init__(self) -> None:
        for name in ("workers", "steps", "batch_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.evaluate_every < 0:
            raise UserError(f"evaluate_every must not be negative, got {self.evaluate_every}")
        for name in ("epochs", "budget", "until_error"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < float("inf"):
                raise UserError(f"{name} must be positive, got {value}")
        if self.steps is not None and self.epochs is not None:
            raise UserError("give steps or epochs, not both")
        if (self.steps, self.epochs, self.budget) == (None, None, None):
            raise UserError("training would never end: give steps, epochs or a budget")
        if self.until_error is not None and self.evaluate_every == 0:
            raise UserError("until_error needs evaluate_every, at least 1")
        if not 0.0 < self.lr < float("inf"):
            raise UserError(f"lr must be positive, got {self.lr}")
        if self.swa is not None and not 0.0 < self.swa <= 1.0:
            raise UserError(f"swa must lie in (0, 1], got {self.swa}")
        OptimizerChoice.parse(self.optimizer)
        if self.timeout <= timedelta(0):
            raise UserError(f"timeout must be positive, got {self.timeout.total_seconds()} s")
        for fault in self.faults:
            if fault.worker >= self.workers:
                raise UserError(
                    f"fault {fault} names worker {fault.worker}, but the workers are 0 to "
                    f"{self.workers - 1}"
                )
        kinds = [(fault.kind, fault.worker, fault.step) for fault in self.faults]
        for index, fault in enumerate(self.faults):
            if kinds[index] in kinds[:index]:
                raise UserError(
                    f"worker {fault.worker} has the fault {fault.kind} twice, the second time as "
                    f"{fault}: leave one of the two out"
                )
        obstacle = self.stacking_obstacle() if self.stack_workers == "on" else None
        if obstacle is not None:
            raise UserError(f"{obstacle}: leave out --stack-workers, or set it to off")

    def stacking_obstacle(self) -> str | None:
        """Why workers can't make their steps in one batched pass with these settings, if so."""
        if self.modelled is not None and self.schedule.counts_together:
            return (
                "with --clock virtual and --schedule shared-count workers step at different times, "
                "so their steps can't be stacked"
            )
        if OptimizerChoice.parse(self.optimizer).rho is not None:
            return "SAM's two passes can't be stacked"
        for fault in self.faults:
            if fault.kind in {"input-noise", "gradient-noise"} or (
                fault.asked and fault.needs_labels
            ):
                return f"fault {fault} can't be stacked"
        if len({self.batch_size_of(worker) for worker in range(self.workers)}) > 1:
            return (
                "--stack-workers needs the same batch size for all workers, but the faults change "
                "it"
            )
        return None

    def batch_size_of(self, worker: int) -> int:
        """A worker's own batch size."""
        size = self.batch_size
        for fault in self.faults:
            if fault.worker == worker:
                size = fault.batch_size(size)
        return size
