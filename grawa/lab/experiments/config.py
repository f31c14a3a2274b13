"""A training run as it is written on the command line and in `config.toml`."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, get_type_hints

import tyro
from typeguard import TypeCheckError, check_type

from grawa.errors import UserError
from grawa.lab.experiments.older import current_options
from grawa.lab.experiments.score import ScoreChoice
from grawa.lab.simulate.clock import VirtualClock
from grawa.lab.simulate.network import Link
from grawa.lab.train.faults import FAULTS_HELP, Fault
from grawa.lab.train.optimizers import OPTIMIZERS_HELP, OptimizerChoice
from grawa.lab.train.population import faults_of
from grawa.lab.train.settings import Settings
from grawa.lab.units import seconds, share
from grawa.rounds.guard import Guard
from grawa.rounds.schedule import Every, Quadratic, Schedule, SharedCount, Warmup

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

    data: str | None = None
    """The folder or archive with the data, for a task that reads them: cifar10, cifar100,
    imagenet. The same as the task's option data=DIR."""

    strategy: str = "lgrawa"
    """How to average, with options: lgrawa:pull=0.3:prox=0. `grawa strategies` lists them."""

    workers: int = 4
    """Number of workers."""

    processes: int | None = None
    """Processes to spread them over; by default one for each worker."""

    steps: int | None = None
    """Local steps of each worker; 960 if neither --epochs nor --budget is given."""

    epochs: float | None = None
    """Passes over the smallest worker's samples, in place of --steps."""

    budget: str | None = None
    """Time to train for, 90s or 2h: training ends at the round that is nearest. The learning rate
    falls with the time that is spent."""

    until_error: str | None = None
    """End when the consensus's error is at most this, 5% say."""

    evaluate_every: int | None = None
    """Rounds between measurements of the consensus; by default 1 with --until-error, else none."""

    sync_every: int = 32
    """Local steps between rounds."""

    schedule: str = "every"
    """When rounds are due: every; shared-count (all workers' steps are counted together, so that a
    fast worker makes more of them); warmup:STEPS (after every step at first); quadratic or
    quadratic:GROWTH (rarer as the learning rate falls)."""

    overlap_steps: int = 0
    """Local steps for which a round may go on in the background."""

    fragments: int = 1
    """Parts of the model that are synchronised in turn, each a part of the bytes."""

    comm_dtype: Literal["same", "bf16", "fp16", "int8"] = "same"
    """In what parameters travel between workers."""

    hook_every: int = 1
    """Local steps between those after which gradient norms are noted and the proximal pull is made;
    more than 1 saves memory traffic."""

    batch_size: int = 16
    """Samples per worker and step."""

    lr: float = 0.1
    """Learning rate at the start."""

    lr_schedule: Literal["constant", "cosine"] = "cosine"
    """How it changes: not at all, or down to zero at the end."""

    optimizer: Annotated[
        str, tyro.conf.arg(metavar="OPTIMIZER", help=f"Each worker's own: {OPTIMIZERS_HELP}.")
    ] = "sgd"

    score: str | None = None
    """What workers report before a round, with options; by default what the strategy says. Norms:
    training (an average over the training batches since the last round), rms (a running root mean
    square of them), probe (on a batch that all workers share, for workers that differ in their
    data). Losses: loss (the last few), probe-loss (on the shared batch). Norms times a loss, an
    experiment: norm-times-loss, probe-times-probe-loss and so on. Of a shared batch, size=256 says
    how many samples it has. With from=6, all workers count equally until round 6: norms mislead
    while losses are near chance. So: probe:size=256:from=6, rms:decay=0.95, loss:window=8."""

    guard: bool = True
    """Whether a worker that goes wrong is kept out of the center."""

    buffers: Literal["average", "local"] = "average"
    """What becomes of BatchNorm statistics and other buffers at a round."""

    shards: str = "iid"
    """How samples are dealt out: iid, or dirichlet:A (A small: each worker sees few labels)."""

    fault: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(
            metavar="FAULT",
            help="What goes wrong on purpose, or sets workers apart; may be repeated: "
            f"{FAULTS_HELP}.",
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

    stack_workers: bool = False
    """Whether the workers of a process make their local steps in one batched pass: the same
    numbers to rounding, and faster for many small models in one process. The model must allow
    it."""
    swa: str | None = None
    """Save the average of the consensus over the last part of the run, 25% say (stochastic weight
    averaging): taken after each round, with its own BatchNorm statistics."""
    keep_workers: bool = False
    """Keep each worker's parameters after the last round in the run's folder too, as
    workers/worker-0.safetensors and so on; `grawa flatness` measures them. On several machines the
    folder must lie where all can write."""

    clock: Literal["wall", "virtual"] = "wall"
    """virtual: time passes by --step-time and by what rounds would take over --link; all workers
    live in one process."""

    step_time: str = "50ms"
    """Virtual clock: how long a local step takes; with SAM, which makes two passes, twice that. A
    probe takes as long for each of its samples; a third of that for losses alone."""

    speeds: str | None = None
    """Virtual clock: of each worker, 1,1,1,0.5 say; 0.5 takes twice as long. They stand in for the
    speeds that a random population would have."""

    jitter: float = 0.0
    """Virtual clock: standard deviation of a step's length, as a share of it."""

    link: str | None = None
    """Virtual clock: bandwidth and latency between workers, 100mbit:20ms say; by default messages
    take no time."""

    topology: Literal["ring", "mesh", "star"] = "ring"
    """Virtual clock: how workers are connected."""

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
        faults = self._faults()
        return Settings(
            workers=self.workers,
            steps=960 if (self.steps, self.epochs, self.budget) == (None,) * 3 else self.steps,
            epochs=self.epochs,
            budget=_given(self.budget, seconds, "budget"),
            until_error=_given(self.until_error, share, "until_error"),
            evaluate_every=self._evaluate_every(),
            schedule=schedule_of(self.schedule, self.sync_every, self.lr),
            overlap_steps=self.overlap_steps,
            fragments=self.fragments,
            comm_dtype=None if self.comm_dtype == "same" else self.comm_dtype,
            modelled=self._modelled(faults),
            hook_every=self.hook_every,
            batch_size=self.batch_size,
            lr=self.lr,
            lr_schedule=self.lr_schedule,
            optimizer=self.optimizer,
            guard=Guard() if self.guard else None,
            buffers=self.buffers,
            shards=self.shards,
            faults=faults,
            dtype=self.dtype,
            seed=self.seed,
            timeout=timedelta(seconds=self.timeout),
            checkpoint_every=self.checkpoint_every,
            stack_workers=self.stack_workers,
            swa=_given(self.swa, share, "swa"),
        )

    def _evaluate_every(self) -> int:
        if self.evaluate_every is None:
            return int(self.until_error is not None)
        return self.evaluate_every

    def _faults(self) -> tuple[Fault, ...]:
        """All workers' faults; populations with speeds of their own where there are no others."""
        timed = self.clock == "virtual" and self.speeds is None
        faults = [
            fault for text in self.fault for fault in faults_of(text, self.workers, timed=timed)
        ]
        for fault in faults:
            if fault.kind == "speed" and not timed:
                reason = (
                    "is for --clock virtual" if self.clock == "wall" else "and --speeds: give one"
                )
                raise UserError(f"fault {fault} {reason}")
        return tuple(faults)

    def _speeds(self, faults: tuple[Fault, ...]) -> list[float] | None:
        """Of each worker, by option or fault."""
        if self.speeds is not None:
            return speeds_of(self.speeds, self.workers)
        own = {fault.worker: fault.amount for fault in faults if fault.kind == "speed"}
        return [own.get(i, 1.0) for i in range(self.workers)] if own else None

    def _modelled(self, faults: tuple[Fault, ...]) -> Callable[[], VirtualClock] | None:
        """What makes the clock, if time is modelled; each option is tried here."""
        usual = {field.name: field.default for field in fields(self)}
        if self.clock == "wall":
            for name in ("step_time", "speeds", "jitter", "link", "topology"):
                if getattr(self, name) != usual[name]:
                    raise UserError(f"{name} is for --clock virtual")
            return None
        step = seconds(self.step_time, "step_time")
        make = partial(
            VirtualClock,
            step * OptimizerChoice.parse(self.optimizer).passes,
            score_time=step * self._probe_samples() / self.batch_size,
            speeds=self._speeds(faults),
            jitter=self.jitter,
            link=None if self.link is None else Link.parse(self.link),
            topology=self.topology,
            seed=self.seed,
        )
        make()
        return make

    def _probe_samples(self) -> float:
        """Samples that go forward and backward before a round."""
        return 0.0 if self.score is None else ScoreChoice.parse(self.score).samples

    def num_processes(self) -> int:
        """How many processes to start; with a virtual clock one, by default.

        Returns:
            A divisor of the number of workers.

        Raises:
            UserError: if the workers can't be spread evenly over them.
        """
        usual = 1 if self.clock == "virtual" else self.workers
        count = usual if self.processes is None else self.processes
        if self.clock == "virtual" and count != 1:
            raise UserError("a virtual clock needs all workers in one process: --processes 1")
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
        table = current_options(table)
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


def _given(text: str | None, read: Callable[[str, str], float], what: str) -> float | None:
    return None if text is None else read(text, what)


def schedule_of(text: str, sync_every: int, lr: float) -> Schedule:
    """The schedule written as `name` or `name:value`.

    Args:
        text: as in `TrainConfig.schedule`.
        sync_every: local steps between rounds.
        lr: at the start; a quadratic schedule grows from the first fall on, by default.

    Returns:
        The schedule.

    Raises:
        UserError: if there is no such schedule.

    >>> schedule_of("quadratic", 4, 0.1)
    Quadratic(sync_every=4, growth=0.2)
    """
    name, _, value = text.partition(":")
    number = _number(value)
    if text == "every":
        return Every(sync_every)
    if text == "shared-count":
        return SharedCount(sync_every)
    if name == "warmup" and number is not None and number.is_integer():
        return Warmup(sync_every, steps=int(number))
    if text == "quadratic":
        return Quadratic(sync_every, growth=lr * max(1, sync_every) ** 0.5)
    if name == "quadratic" and number is not None:
        return Quadratic(sync_every, growth=number)
    raise UserError(
        "schedule must be every, shared-count, warmup:STEPS, quadratic or quadratic:GROWTH, got "
        f"{text!r}"
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def speeds_of(text: str, workers: int) -> list[float]:
    """One speed for each worker, separated by commas.

    Returns:
        N speeds.

    Raises:
        UserError: if they are not numbers, or not as many.

    >>> speeds_of("1,0.5", 2)
    [1.0, 0.5]
    """
    try:
        speeds = [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"speeds must be numbers such as 1,1,0.5, got {text!r}") from None
    if len(speeds) != workers:
        raise UserError(f"{workers} workers need {workers} speeds, got {len(speeds)}: {text!r}")
    return speeds
