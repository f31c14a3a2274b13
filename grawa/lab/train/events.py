"""What a training run reports while it goes on."""

from dataclasses import dataclass, field

from torch import Tensor

from grawa.rounds.report import RoundReport

ByWorker = dict[int, dict[str, Tensor]]
"""Worker -> its tensors by name."""


@dataclass(frozen=True, kw_only=True)
class Started:
    """All workers are ready to train.

    Attributes:
        step: 0, or the step of the checkpoint from which training continues.
        round: 0, or its round.
        recorded: the last round whose events come from before; those of later rounds come (again).
        passed_over: why newer checkpoints could not be used.
        resized: what does not go on as it was, because there are other numbers of workers or
            processes; empty if they are the same.
        workers: N.
        processes: number of processes.
        arrangement: how these reach each other, in words.
        parameters: number of trained parameters of the model.
        tensors: names of the trained tensors, which layer-wise methods weight one by one.
        steps: local steps of each worker, if they end the run.
        device: the device of this process.
        faults: of all workers, as text; for a random population, what was drawn.
        stacked: whether the workers of a process make their local steps in one batched pass.
        stacking: the same in words, with the reason.
    """

    step: int
    round: int
    recorded: int
    passed_over: tuple[str, ...]
    resized: str
    workers: int
    processes: int
    arrangement: str
    parameters: int
    tensors: tuple[str, ...]
    steps: int | None
    device: str
    faults: tuple[str, ...]
    stacked: bool
    stacking: str


@dataclass(frozen=True, kw_only=True)
class Joined:
    """This elastic worker has begun to train with the others, or has come to another job.

    Attributes:
        worker: its number.
        job: unlike that of any other job, also when all workers have been started again.
        late: whether the job was under way.
        step: local steps, as the others count them.
        round: rounds.
    """

    worker: int
    job: str
    late: bool
    step: int
    round: int


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The consensus was measured after a round.

    Attributes:
        error: the task's metric.
        step: local steps so far.
        round: rounds so far.
        elapsed: seconds since the start.
    """

    error: float
    step: int
    round: int
    elapsed: float


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Training has ended; the consensus is not measured yet, so that it can be saved first.

    Attributes:
        consensus: its state dict; with `swa`, of the average of the last rounds' consensuses.
        workers: worker -> its state dict after the last round, for the workers in this process;
            empty without `keep_workers`.
        rounds: worker -> its parameters before the last rounds, name -> (R, *shape), for the
            workers in this process; empty without `keep_rounds`.
    """

    consensus: dict[str, Tensor]
    workers: ByWorker = field(default_factory=dict)
    rounds: ByWorker = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The end of a run.

    Attributes:
        error: the task's metric of the consensus.
        consensus: as in `Trained`.
        step: local steps.
        round: rounds.
        elapsed: seconds since the start.
        averaged_rounds: number of consensuses that were averaged; 0 without `swa`.
        doubts: why the result should not be trusted: see `grawa.lab.train.doubts`.
    """

    error: float
    consensus: dict[str, Tensor]
    step: int
    round: int
    elapsed: float
    averaged_rounds: int
    doubts: tuple[str, ...] = ()


Event = Started | Joined | RoundReport | Evaluated | Trained | Finished
