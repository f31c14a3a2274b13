"""What a training run is told, apart from the task and the strategy."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from grawa.errors import UserError
from grawa.guard import Guard
from grawa.train.faults import Fault


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to train.

    Args:
        workers: N.
        steps: local steps of each worker.
        sync_every: local steps between rounds.
        batch_size: samples per worker and step.
        lr: the learning rate at the start.
        lr_schedule: "constant", or "cosine" down to zero at the last step.
        optimizer: "sgd" (Nesterov momentum 0.9, weight decay 1e-4) or "adamw" (torch's defaults).
        guard: who takes part in rounds; `None` for everyone.
        buffers: as for `Averager`.
        shards: as for `grawa.train.batches.shard`.
        faults: what goes wrong.
        dtype: of parameters and data.
        seed: of everything random.
        timeout: how long a message may wait for the others.
        checkpoint_every: rounds between checkpoints, or 0 for none.
    """

    workers: int
    steps: int
    sync_every: int
    batch_size: int
    lr: float
    lr_schedule: Literal["constant", "cosine"]
    optimizer: Literal["sgd", "adamw"]
    guard: Guard | None
    buffers: Literal["average", "local"]
    shards: str
    faults: tuple[Fault, ...]
    dtype: Literal["float32", "float64"]
    seed: int
    timeout: timedelta
    checkpoint_every: int

    def __post_init__(self) -> None:
        for name in ("workers", "steps", "sync_every", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.checkpoint_every < 0:
            raise UserError(f"checkpoint_every must not be negative, got {self.checkpoint_every}")
        if not 0.0 < self.lr < float("inf"):
            raise UserError(f"lr must be positive, got {self.lr}")
        if self.timeout <= timedelta(0):
            raise UserError(f"timeout must be positive, got {self.timeout.total_seconds()} s")
        for fault in self.faults:
            if fault.worker >= self.workers:
                raise UserError(
                    f"fault {fault.kind} names worker {fault.worker}, but the workers are 0 to "
                    f"{self.workers - 1}"
                )
