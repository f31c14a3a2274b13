"""Compares convergence with theory, on convex problems with known minimisers and on a network.

Four workers with plain SGD, without momentum and guard, all hosted in one process. Convex: the
squared distance of the consensus from the minimiser of all samples, over rounds, for constant and
decaying learning rates; with one biased worker; and with different samples on each worker, which
uses all of its own at each step, so that only the bias of the fixed point remains at the end.
Non-convex: an MLP on `digits` with a learning rate proportional to 1/sqrt(T): the squared gradient
norm of the consensus over all training samples, averaged over T steps, which theory bounds by a
multiple of 1/sqrt(T).
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import SGD

from command import Benchmark, Results
from grawa import Averager
from grawa.flatness import Surface, gradient_norm
from grawa.lab.cli import names
from grawa.lab.tasks import Digits
from grawa.seeding import generator
from processes import one_by_one
from samples import Sample, Samples
from theory_pictures import convex_picture, nonconvex_picture
from theory_problems import TASKS, WORKERS, Kind, Problem, Steps, lr, models
from theory_results import CONDITIONS, METHODS, convex_results, nonconvex_results, tables

NONCONVEX_LR = 2.0
"""Learning rate times sqrt(T): the rate is 0.25 for the shortest training, 0.06 for the longest."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options."""

    seeds: int = 10
    """Number of seeds."""
    steps: int = 768
    """Local steps of each worker on convex problems."""
    nonconvex_steps: tuple[int, ...] = (64, 256, 1024)
    """Values of T for the non-convex problem."""
    sync_every: int = 16
    """Local steps between rounds."""
    batch_size: int = 4
    """Samples per worker and step; four times as many for the non-convex problem."""
    jobs: int = os.cpu_count() or 1
    """Runs at a time."""


TOY = Config(seeds=1, steps=8, nonconvex_steps=(4, 8), sync_every=2, jobs=1)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training: convex if it has a task, otherwise non-convex."""

    method: str
    seed: int
    steps: int
    asked: Config
    task: str = ""
    condition: tuple[Kind, Steps] = ("iid", "constant")


def run(job: Job) -> list[float]:
    """Trains; returns what was measured after each round."""
    return _convex(job) if job.task else _nonconvex(job)


def _convex(job: Job) -> list[float]:
    """The squared distances from the minimiser."""
    kind, steps = job.condition
    problem = Problem.of(job.task, kind, job.seed)
    trained = models(problem, job.seed)
    randoms = [generator(job.seed, "batches", worker) for worker in range(WORKERS)]

    def loss(worker: int) -> Tensor:
        batch = problem.batch(worker, job.asked.batch_size, randoms[worker])
        return problem.task.loss(trained[worker], *batch)

    def measure(consensus: dict[str, Tensor]) -> float:
        return problem.square_distance(list(consensus.values()))

    rates = [lr(job.task, steps, step) for step in range(job.steps)]
    return _train(job, trained, rates, loss, measure)


def _nonconvex(job: Job) -> list[float]:
    """The squared gradient norms of the consensus."""
    task = Digits(train_size=400)
    data = task.data(job.seed)
    trained = [task.model(job.seed) for _ in range(WORKERS)]
    randoms = [generator(job.seed, "batches", worker) for worker in range(WORKERS)]
    inputs, targets = data.train_inputs, data.train_targets
    surface = Surface(
        model=task.model(job.seed), loss=task.loss, inputs=inputs, targets=targets, batch_size=400
    )

    def loss(worker: int) -> Tensor:
        size = (4 * job.asked.batch_size,)
        picked = torch.randint(len(inputs), size, generator=randoms[worker])
        return task.loss(trained[worker], inputs[picked], targets[picked])

    def measure(consensus: dict[str, Tensor]) -> float:
        surface.model.load_state_dict(consensus)
        return gradient_norm(surface) ** 2

    rate = NONCONVEX_LR / math.sqrt(job.steps)
    return _train(job, trained, [rate] * job.steps, loss, measure)


def _train(
    job: Job,
    trained: list[nn.Module],
    rates: list[float],
    loss: Callable[[int], Tensor],
    measure: Callable[[dict[str, Tensor]], float],
) -> list[float]:
    """Trains with a schedule of learning rates, and measures the consensus after each round."""
    optimizers = [SGD(model.parameters(), lr=rates[0]) for model in trained]
    strategy = names.strategy(job.method)
    found: list[float] = []
    averager = Averager(trained, optimizers, strategy, sync_every=job.asked.sync_every, guard=None)
    with averager:
        for step, rate in enumerate(rates, start=1):
            losses = []
            for worker, optimizer in enumerate(optimizers):
                optimizer.param_groups[0]["lr"] = rate
                optimizer.zero_grad()
                one = loss(worker)
                one.backward()
                losses.append(one.detach())
            averager.record_loss(torch.stack(losses))
            for optimizer in optimizers:
                optimizer.step()
            if step % job.asked.sync_every == 0:
                found.append(measure(averager.consensus()))
    return found


def jobs(asked: Config) -> list[Job]:
    """All trainings."""
    seeds = range(asked.seeds)
    convex = [
        Job(method=m, seed=s, steps=asked.steps, asked=asked, task=t, condition=c)
        for t, c, m, s in product(TASKS, CONDITIONS, METHODS, seeds)
    ]
    nonconvex = [
        Job(method=m, seed=s, steps=t, asked=asked)
        for m, t, s in product(METHODS, asked.nonconvex_steps, seeds)
    ]
    return convex + nonconvex


def measure(asked: Config, samples: Samples) -> None:
    """Runs all trainings."""
    for job, curve in one_by_one(run, jobs(asked), asked.jobs, "training"):
        samples.add(
            method=job.method,
            seed=job.seed,
            steps=job.steps,
            task=job.task,
            condition=job.condition,
            curve=curve,
        )


def merge(asked: Config, samples: Sequence[Sample]) -> Results:
    """Curves, final values and slopes of the trainings so far."""
    convex = [sample for sample in samples if sample["task"]]
    nonconvex = [sample for sample in samples if not sample["task"]]
    return {
        "convex": convex_results(convex, asked.sync_every, asked.batch_size),
        "nonconvex": nonconvex_results(nonconvex),
    }


def table(asked: Config, results: Results) -> None:
    """Prints final values and slopes."""
    tables(results["convex"], results["nonconvex"])
    print(f"mean ± standard error of {asked.seeds} seeds")


def draw(asked: Config, results: Results, folder: Path) -> None:
    """Draws all curves."""
    convex_picture(results["convex"], METHODS, folder / "theory_convex.png")
    path = folder / "theory_nonconvex.png"
    nonconvex_picture(results["nonconvex"], METHODS, asked.nonconvex_steps, path)


BENCHMARK = Benchmark(
    name="theory",
    text=__doc__,
    takes="8 minutes of two cores",
    config=Config(),
    toy=TOY,
    measure=measure,
    merge=merge,
    show=table,
    draw=draw,
)
main = BENCHMARK.run

if __name__ == "__main__":
    main()
