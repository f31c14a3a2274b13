"""One process of `time_to_loss.py`: trains, and measures the consensus along the way."""

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from rich.progress import track
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

import grawa
from grawa.lab.tasks.digits import Digits
from grawa.lab.tasks.task import Task
from grawa.lab.tasks.text import Text
from grawa.seeding import generator
from methods import QUIETLY
from namespaces import join
from samples import Sample, Samples
from schedules import warmup_and_cosine
from time_to_loss_methods import DDP, METHODS, Method, Setup, Training


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A task and how it is trained."""

    task: Task
    optimizer: Callable[..., Optimizer]
    batch: int
    """Samples in a worker's batch."""
    steps: int
    """Of DDP."""
    learning_rates: tuple[float, ...]
    """Of which each method gets the best one."""
    tuning_seeds: int
    """Seeds on which it is chosen; others than those of the runs that count."""


_ADAMW = partial(AdamW, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
_SGD = partial(SGD, momentum=0.9, weight_decay=1e-4)

PROBLEMS: Mapping[str, Problem] = {
    "text": Problem(
        task=Text(test_bytes=24_000),
        optimizer=_ADAMW,
        batch=4,
        steps=150,
        learning_rates=(1.25e-4, 2.5e-4, 5e-4, 1e-3, 2e-3),
        tuning_seeds=1,
    ),
    "digits-cnn": Problem(
        task=Digits(architecture="cnn"),
        optimizer=_SGD,
        batch=8,
        steps=400,
        learning_rates=(0.00625, 0.0125, 0.025, 0.05, 0.1, 0.2),
        tuning_seeds=4,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run."""

    what: str
    """"tune" or "run"."""
    task: str
    arrangement: str
    rate: str
    method: str
    seed: int
    learning_rate: float

    @classmethod
    def of(cls, sample: Sample) -> "Job":
        """The run that a sample is of."""
        return cls(**{name: sample[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True, kw_only=True)
class Length:
    """How long runs are, and how often they are measured."""

    shorter: int
    """What all numbers of steps are divided by."""
    longer: int
    """Local steps of the other methods, in those of DDP."""
    points: int
    """Measurements of a run, equally distant in steps."""
    sync_every: int

    def steps(self, job: Job) -> int:
        """Local steps of a run, a multiple of `points`."""
        own = PROBLEMS[job.task].steps * (1 if job.method == DDP else self.longer)
        return max(1, own // self.shorter // self.points) * self.points


@dataclass
class Curve:
    """A worker's parameters along the way, and when it had them.

    Time stands still while parameters are copied. Nothing is communicated for a measurement: the
    workers' parameters are averaged after the run.
    """

    seconds: list[float] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)
    _start: float = field(default_factory=time.perf_counter)

    def note(self, model: nn.Module) -> None:
        """Keeps a copy of the parameters."""
        now = time.perf_counter()
        self.seconds.append(now - self._start)
        self.kept.append(parameters_to_vector(model.parameters()).detach().clone())
        self._start += time.perf_counter() - now


def work(rank: int, jobs: Sequence[Job], length: Length, each: int, samples: Samples) -> None:
    """Makes runs, together with the other processes; rank 0 writes the results of all."""
    hosts = int(jobs[0].arrangement.split("x")[0])
    join(rank, QUIETLY, hosts * each)
    names: list[str | None] = [tempfile.mkdtemp() if rank == 0 else None]
    dist.broadcast_object_list(names)  # all hosts are on one machine
    folder = Path(str(names[0]))
    title = f"{jobs[0].what} {jobs[0].arrangement}, {jobs[0].rate}"
    for job in track(jobs, f"{title:22}", disable=rank > 0):
        seconds, errors = run(job, length, each, folder)
        if rank == 0:
            steps = length.steps(job)
            at = [steps * (i + 1) // length.points for i in range(length.points)]
            samples.add(**vars(job), steps=at[: len(seconds)], seconds=seconds, errors=errors)
    dist.barrier()
    if rank == 0:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    dist.destroy_process_group()


def run(
    job: Job, length: Length, each: int, folder: Path
) -> tuple[list[float], list[float | None]]:
    """Trains, and measures the mean of the workers' parameters.

    Returns:
        Of each point, the seconds of the slowest worker, and the consensus's error, or `None` if
        that is not finite. Both are empty if the workers diverged.
    """
    problem = PROBLEMS[job.task]
    data = problem.task.data(job.seed)
    model = problem.task.model(job.seed)
    setup = Setup(
        task=problem.task,
        data=data,
        model=model,
        optimizer=problem.optimizer(model.parameters(), lr=job.learning_rate),
        seed=job.seed,
        steps=length.steps(job),
        sync_every=length.sync_every,
        batch=problem.batch,
        each=each,
    )
    curve = _train(setup, METHODS[job.method], length.points)
    if curve is None:
        return [], []
    slowest = torch.tensor(curve.seconds, dtype=torch.float64)
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    return slowest.tolist(), _errors(setup, curve, folder)


def _train(setup: Setup, method: Method, points: int) -> Curve | None:
    """Trains on this worker's part of the data; the last point is after the method's end.

    Returns:
        The curve, or `None` if the workers diverged.
    """
    rank, workers = dist.get_rank(), dist.get_world_size()
    random = generator(setup.seed, f"batches-{rank}")
    own = torch.arange(rank, len(setup.data.train_inputs), workers)
    schedule = LambdaLR(setup.optimizer, partial(warmup_and_cosine, steps=setup.steps))
    distance = setup.steps // points
    try:
        with method(setup) as training:
            dist.barrier()
            curve = Curve()
            for step in range(1, setup.steps + 1):
                picked = own[torch.randint(len(own), (setup.batch,), generator=random)]
                _step(setup, training, picked)
                schedule.step()
                if step % distance == 0 and step < setup.steps:
                    curve.note(setup.model)
    except grawa.DivergedError:
        return None
    curve.note(setup.model)
    return curve


def _step(setup: Setup, training: Training, picked: Tensor) -> None:
    inputs, targets = setup.data.train_inputs[picked], setup.data.train_targets[picked]
    training.optimizer.zero_grad()
    loss = setup.task.loss(training.model, inputs, targets)
    loss.backward()
    training.record_loss(loss)
    training.optimizer.step()


def _errors(setup: Setup, curve: Curve, folder: Path) -> list[float | None]:
    """Of the mean of the workers' parameters at each point; each process measures some points."""
    rank, workers = dist.get_rank(), dist.get_world_size()
    torch.save(curve.kept, folder / f"{rank}.pt")
    dist.barrier()
    kept = [torch.load(folder / f"{worker}.pt", mmap=True) for worker in range(workers)]
    setup.model.eval()
    own = {}
    for point in range(rank, len(curve.kept), workers):
        mean = torch.stack([each[point] for each in kept]).mean(dim=0)
        vector_to_parameters(mean, setup.model.parameters())
        error = setup.task.measure(setup.model, setup.data)
        own[point] = error if math.isfinite(error) else None
    everyone: list[dict[int, float | None]] = [{}] * workers
    dist.all_gather_object(everyone, own)  # which also waits until all have read the files
    found = {point: error for each in everyone for point, error in each.items()}
    return [found[point] for point in range(len(curve.kept))]
