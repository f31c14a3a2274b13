"""The options of a training run, on the command line and in `config.toml`.

Torch is not imported here, so that help and mistakes on the command line need not wait for it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from grawa.errors import UserError
from grawa.lab.experiments.older import current_options
from grawa.lab.experiments.option_types import wrong_options
from grawa.lab.experiments.usual_momentum import with_momentum
from grawa.lab.experiments.usual_score import usual_score
from grawa.lab.shapes import shown
from grawa.lab.train.forms import FAULTS_HELP, OPTIMIZERS_HELP
from grawa.lab.train.interval import Interval
from grawa.lab.train.stop import STOP_WITHIN_SECONDS

if TYPE_CHECKING:
    from grawa.lab.train.settings import Settings


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The options of a training run.

    Attributes:
        HEADINGS: the first option of each part of the help -> the heading of that part.
    """

    HEADINGS: ClassVar[Mapping[str, str]] = {
        "task": "what is trained",
        "workers": "workers",
        "steps": "how long",
        "strategy": "averaging",
        "guard": "workers that go wrong",
        "checkpoint_every": "checkpoints, stops and restarts",
        "elastic": "workers that come and go",
        "clock": "a modelled cluster",
        "swa": "results",
    }

    task: str
    """The task, with options: digits, digits:train_size=400. `grawa tasks` lists them. file.py:name
    or module:name is a task of your own."""

    data: Annotated[str | None, "PATH"] = None
    """The folder or archive with the data, for a task that reads them: cifar10, cifar100,
    imagenet. The same as the task's option data=PATH."""

    optimizer: Annotated[str, "OPTIMIZER", f"Each worker's optimizer: {OPTIMIZERS_HELP}."] = "sgd"

    lr: float = 0.1
    """Initial learning rate."""

    lr_schedule: Literal["constant", "cosine"] = "cosine"
    """How the learning rate changes: constant, or cosine down to zero at the end."""

    batch_size: int = 16
    """Samples per worker and step."""

    dtype: Literal["float32", "float64"] = "float32"
    """The dtype of parameters and data."""

    seed: int = 0
    """The seed of everything random."""

    workers: int = 4
    """Number of workers."""

    processes: int | None = None
    """Number of processes, which host equally many workers; by default one for each worker."""

    device: str = "auto"
    """cpu, cuda, or auto for a GPU if there is one."""

    shards: str = "iid"
    """How samples are distributed over the workers: iid, or dirichlet:A (with a small A each worker
    sees few labels)."""

    stack_workers: Literal["auto", "on", "off"] = "auto"
    """Whether the workers of a process make their local steps in one batched pass: the same
    results up to rounding, and faster for many small models in one process. auto: if the model
    allows it and, in a run that is long enough, a timed trial at the start shows that it is clearly
    faster; the run's folder records the choice, so that resuming and repeating the run keep it. The
    option without a value means on."""

    steps: int | None = None
    """Local steps of each worker; 960 if neither --epochs nor --budget is given."""

    epochs: float | None = None
    """Passes over the smallest worker's samples, in place of --steps."""

    budget: Annotated[str | None, "TIME"] = None
    """Training time, such as 90s or 2h: training ends at the nearest round, and the learning rate
    falls with the elapsed time."""

    until_error: Annotated[str | None, "PERCENT"] = None
    """Training ends when the consensus's error is at most this, such as 5%."""

    evaluate_every: int | None = None
    """Rounds between measurements of the consensus; by default 1 with --until-error, else none."""

    strategy: str = "lgrawa"
    """The averaging method, with options: lgrawa:pull=0.3:prox=0. `grawa strategies` lists them.
    file.py:name or module:name is a strategy of your own."""

    sync_every: int = 32
    """Local steps between rounds."""

    schedule: str = "every"
    """When rounds are due: every; shared-count (all workers' steps are counted together, so that a
    fast worker makes more of them); warmup:STEPS (a round after each of the first steps); quadratic
    or quadratic:GROWTH (rarer as the learning rate falls)."""

    score: str | None = None
    """What workers report before a round, with options; by default probe for mgrawa, lgrawa and
    lgrawa_nesterov, and for others the strategy's own score. Gradient norms: probe (on a batch that
    all workers share, drawn anew for each round from all training data: the paper's method),
    training (averaged over the training batches since the last round, at the cost of no pass), rms
    (their running root mean square). displacement: how far each worker has moved from the center
    since the last round. Losses: loss (of the last few steps), probe-loss (on the shared batch).
    Norms times a loss, which is experimental: norm-times-loss, probe-times-probe-loss and so on.
    size=256 sets the number of samples in a shared batch. With from=6, all workers count equally
    before round 6, since norms mislead while losses are near chance. Examples:
    probe:size=256:from=6, rms:decay=0.95, loss:window=8."""

    overlap_steps: int = 0
    """Local steps for which a round may run in the background."""

    alpha: float | None = None
    """When a round has run in the background, workers become alpha times themselves plus 1 - alpha
    times what it has made of them; by default what it has changed is added."""

    fragments: int = 1
    """Number of parts of the model that are synchronised one after another, in smaller messages."""

    comm_dtype: str = "same"
    """How parameters are sent between workers: same (in their own dtype); bf16 or int8; topk, the
    largest numbers only, with options: topk:fraction=0.25:bits=2 sends a quarter of them in 2
    bits."""

    weigh_by: Literal["none", "steps", "samples"] = "none"
    """By what workers' weights in a round's means are multiplied: the local steps, or the samples,
    that each has made since the last round. For workers of different speeds or batch sizes."""

    buffers: Literal["average", "local"] = "average"
    """Whether BatchNorm statistics and other buffers are averaged at rounds, or stay local."""

    optimizer_state: Literal["local", "average", "reset"] = "local"
    """What rounds do with the momentum and other moments that optimizers keep: local leaves them to
    each worker, average averages them, reset clears them."""

    optimizer_state_every: int = 1
    """Rounds from one in which that is done to the next."""

    guard: bool = True
    """Whether workers that go wrong are kept out of the center."""

    report_after: int = 10
    """A worker that the guard has left out of this many rounds in a row is reported."""

    drop: bool = False
    """Leave out such a worker for good."""

    displacement_ratio: float | None = None
    """Leave out, too, a worker that has moved so many times as far from the last center as the
    median worker, such as 3; by default none is left out for this."""

    fault: Annotated[
        tuple[str, ...],
        "FAULT",
        "A fault, or a difference between workers, made on purpose; may be repeated: "
        f"{FAULTS_HELP}.",
    ] = ()

    checkpoint_every: Annotated[int | str, "ROUNDS|TIME"] = "10s"
    """How often a checkpoint is saved, from which a killed run continues: after so many rounds,
    such as 20, or at the first round after so much time, such as 10s (less often, if writing would
    take more than 5% of the time); 0 for never, unless the run is told to stop."""

    keep_checkpoints: int = 3
    """How many checkpoints are kept."""

    stop_within: Annotated[float, "SECONDS"] = STOP_WITHIN_SECONDS
    """Seconds in which a run that gets SIGTERM, SIGINT (Ctrl-C) or SIGHUP stops: it saves a
    checkpoint at its next round, from which `grawa resume` continues. After that time, or at
    another signal, it is ended, and what was done since the last checkpoint is lost. Under torchrun
    or SLURM's srun, these decide when it is ended, usually 30 s later."""

    timeout: Annotated[float, "SECONDS"] = 600.0
    """Seconds that a message may wait for the other workers before the run fails."""

    max_restarts: int = 3
    """How often the run is started again from its last checkpoint, after a process has died. Under
    torchrun, its own --max-restarts counts."""

    elastic: bool = False
    """Let workers die and come back while the others go on; needs the extra [elastic]. A
    worker that dies is started again alone, as often as --max-restarts says, and gets the center
    from the others. Each saves checkpoints of its own, and those who are there write the run's
    folder. Under another launcher give every worker TORCHFT_LIGHTHOUSE, RANK and WORLD_SIZE."""

    min_workers: int | None = None
    """Elastic: with fewer workers the others wait, for ten times --timeout (5 minutes at most), and
    then end with a checkpoint; by default half of them."""

    grace: Annotated[str | None, "TIME"] = None
    """Elastic: how long a round waits for a worker that is alive but slow, such as 2s; by default
    as long as it lives."""

    address: str = "127.0.0.1"
    """Elastic, across machines: the address of this one, at which workers of others reach it."""

    clock: Literal["wall", "virtual"] = "wall"
    """wall: time is measured; virtual: time is computed from --step-time and from the messages of
    rounds over --link, and all workers are in one process."""

    step_time: Annotated[str, "TIME"] = "50ms"
    """Virtual clock: the duration of a local step; twice that with SAM, which makes two passes. A
    probe takes the same time per sample, and a third of that for losses only."""

    speeds: str | None = None
    """Virtual clock: the workers' speeds, such as 1,1,1,0.5; with 0.5 a step takes twice as long.
    They replace the speeds of a random population."""

    jitter: float = 0.0
    """Virtual clock: standard deviation of a step's duration over its mean."""

    link: str | None = None
    """Virtual clock: bandwidth and latency between workers, such as 100mbit:20ms; by default
    messages take no time."""

    topology: Literal["ring", "mesh", "star"] = "ring"
    """Virtual clock: how workers are connected."""

    hosts: str | None = None
    """Virtual clock: hosts x workers on each, such as 2x4; --link and --topology are then those
    between hosts, which exchange a mean of their workers."""

    inner_link: Annotated[str | None, "LINK"] = None
    """Virtual clock: bandwidth and latency between the workers of a host, such as 50gbit:5us; by
    default messages take no time there."""

    swa: Annotated[str | None, "PERCENT"] = None
    """Save the average of the consensus over the last part of the run, such as 25% (stochastic
    weight averaging): the consensus is averaged after each round, with its own BatchNorm
    statistics."""

    keep_workers: bool = False
    """Also save each worker's parameters after the last round in the run's folder, as
    workers/worker-0.safetensors and so on; `grawa flatness` measures them. With several machines
    all must be able to write to the folder."""

    keep_rounds: Annotated[int, "ROUNDS"] = 0
    """Of so many last rounds, also save each worker's parameters as they were before the workers
    were averaged, as rounds/worker-0.safetensors and so on; `grawa flatness` shows in which
    directions the workers differed. Until the end they are in the CPU's memory: so many copies of
    each worker. A resumed run keeps the rounds since then."""

    tensorboard: bool = False
    """Also write TensorBoard files to the run's folder; needs the extra [tensorboard]."""

    def settings(self) -> "Settings":
        """The settings of the training loop; a `UserError` if a value is out of range."""
        from grawa.lab.experiments.run_settings import settings_of  # with torch

        return settings_of(self)

    def checkpoint_interval(self) -> Interval:
        """How often a checkpoint is saved; a `UserError` if it is not an interval."""
        return Interval.parse(self.checkpoint_every, "checkpoint_every")

    def num_processes(self) -> int:
        """Number of processes to start; by default one with a virtual clock, else one per worker.

        Returns:
            A divisor of the number of workers.

        Raises:
            UserError: if it does not divide the number of workers.
        """
        usual = 1 if self.clock == "virtual" else self.workers
        count = usual if self.processes is None else self.processes
        if self.clock == "virtual" and count != 1:
            raise UserError("a virtual clock needs all workers in one process: --processes 1")
        if count < 1 or self.workers % count:
            raise UserError(f"processes must divide the {self.workers} workers evenly, got {count}")
        return count

    def used_score(self) -> str | None:
        """The score that workers report, as `score` names it; `None` for the strategy's own."""
        return usual_score(self.strategy) if self.score is None else self.score

    def as_saved(self) -> "TrainConfig":
        """The same with score and outer momentum by name, so that later versions read the same."""
        return replace(self, score=self.used_score(), strategy=with_momentum(self.strategy))

    def as_toml(self) -> dict[str, object]:
        """The content of `config.toml`: every option that has a value."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_toml(cls, table: dict[str, object], path: Path) -> "TrainConfig":
        """Restores a configuration from what `as_toml` returned.

        Returns:
            The configuration.

        Raises:
            UserError: naming the first entry that is not an option, or has an invalid value.
        """
        table = current_options(table)
        unknown = set(table) - {field.name for field in fields(cls)}
        if unknown or "task" not in table:
            what = f"has an unknown entry {shown(min(unknown))}" if unknown else "has no task"
            raise UserError(f"{path} {what}; it was not written by this version of grawa")
        lists = {key: tuple(v) if isinstance(v, list) else v for key, v in table.items()}
        complaint = wrong_options(lists, cls)
        if complaint:
            raise UserError(f"{path}: {complaint}")
        return cls(**lists)  # type: ignore[arg-type]
