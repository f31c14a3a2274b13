"""A training run as it is written on the command line and in `config.toml`."""

from dataclasses import asdict, dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, get_type_hints

import tyro
from typeguard import TypeCheckError, check_type

from grawa.errors import UserError
from grawa.guard import Guard
from grawa.train.faults import FAULTS_HELP, Fault
from grawa.train.settings import Settings

_LONGEST_TIMEOUT = 1e9  # seconds, some thirty years


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train a task on several workers.

    By default each worker is a process of its own on this machine. Under torchrun, the processes
    are those that it started. The run leaves a folder with its configuration, its
    events and `model.safetensors`; `grawa evaluate RUN` measures that model.
    """

    task: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TASK")]
    """What to learn, with options: digits, digits:train_size=400. `grawa tasks` lists them."""

    strategy: str = "lgrawa"
    """How to average, with options: lgrawa:pull=0.3:prox=0. `grawa strategies` lists them."""

    workers: int = 4
    """Number of workers."""

    processes: int | None = None
    """Processes to spread them over; by default one for each worker."""

    steps: int = 960
    """Local steps of each worker."""

    sync_every: int = 32
    """Local steps between rounds."""

    batch_size: int = 16
    """Samples per worker and step."""

    lr: float = 0.1
    """Learning rate at the start."""

    lr_schedule: Literal["constant", "cosine"] = "cosine"
    """How it changes: not at all, or down to zero at the last step."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd has Nesterov momentum 0.9 and weight decay 1e-4; adamw has torch's defaults."""

    norms: Literal["training", "probe"] = "training"
    """Gradient norms of the training batches, or of a batch that all workers share. Use probe
    where the workers' data differ in kind."""

    probe_size: int = 64
    """Samples in a shared batch."""

    guard: bool = True
    """Whether a worker that goes wrong is kept out of the center."""

    buffers: Literal["average", "local"] = "average"
    """What becomes of BatchNorm statistics and other buffers at a round."""

    shards: str = "iid"
    """How samples are dealt out: iid, or dirichlet:A (A small: each worker sees few labels)."""

    fault: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(
            metavar="FAULT", help=f"What goes wrong on purpose; may be repeated: {FAULTS_HELP}."
        ),
    ] = ()

    dtype: Literal["float32", "float64"] = "float32"
    """Of parameters and data."""

    device: str = "auto"
    """auto takes a GPU if there is one; else cpu or cuda."""

    seed: int = 0
    """Of everything random."""

    timeout: float = 600.0
    """Seconds that a message may wait for the other workers before the run fails."""

    checkpoint_every: int = 0
    """Rounds between checkpoints; 0 for none. `grawa resume RUN` goes on from the last."""

    tensorboard: bool = False
    """Write TensorBoard's files into the run folder too; needs the extra [tensorboard]."""

    def settings(self) -> Settings:
        """What the training loop needs to know of it.

        Returns:
            The settings.

        Raises:
            UserError: if a value is out of range.
        """
        if not 0.0 < self.timeout < _LONGEST_TIMEOUT:
            raise UserError(f"timeout must be positive and finite, got {self.timeout}")
        return Settings(
            workers=self.workers,
            steps=self.steps,
            sync_every=self.sync_every,
            batch_size=self.batch_size,
            lr=self.lr,
            lr_schedule=self.lr_schedule,
            optimizer=self.optimizer,
            guard=Guard() if self.guard else None,
            buffers=self.buffers,
            shards=self.shards,
            faults=tuple(Fault.parse(text) for text in self.fault),
            dtype=self.dtype,
            seed=self.seed,
            timeout=timedelta(seconds=self.timeout),
            checkpoint_every=self.checkpoint_every,
        )

    def num_processes(self) -> int:
        """How many processes to start.

        Returns:
            A divisor of the number of workers.

        Raises:
            UserError: if the workers can't be spread evenly over them.
        """
        count = self.workers if self.processes is None else self.processes
        if count < 1 or self.workers % count:
            raise UserError(f"processes must divide the {self.workers} workers evenly, got {count}")
        return count

    def as_toml(self) -> dict[str, object]:
        """What `config.toml` holds: every option that has a value."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_toml(cls, table: dict[str, object], path: Path) -> "TrainConfig":
        """Reads back what `as_toml` gave.

        Returns:
            The configuration.

        Raises:
            UserError: naming the first entry that is not an option, or has no fitting value.
        """
        unknown = set(table) - {field.name for field in fields(cls)}
        if unknown or "task" not in table:
            what = f"has an unknown entry {min(unknown)!r}" if unknown else "names no task"
            raise UserError(f"{path} {what}; it was not written by this version of grawa")
        lists = {key: tuple(v) if isinstance(v, list) else v for key, v in table.items()}
        hints = get_type_hints(cls)
        for name, value in lists.items():
            try:
                check_type(value, hints[name])
            except TypeCheckError as error:
                raise UserError(f"{path}: {name} = {value!r} won't do: {error}") from None
        return cls(**lists)  # type: ignore[arg-type]
