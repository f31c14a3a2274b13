"""Does it converge as theory says? Known minimisers, and the gradient norm where there is none.

Run `python benchmarks/theory.py`; `--help` tells the options. Four workers with plain SGD, no
momentum and no guard, all hosted in one process. Convex: the squared distance of the consensus
from the minimiser of all samples, over rounds, for constant and decaying steps; with one biased
worker; and where each worker sees other samples, all of them at each step, so that what is left
in the end is the bias of the fixed point. Non-convex: an MLP on `digits`, with a learning
rate in proportion to 1/sqrt(T): the squared gradient norm of the consensus over all training
samples, averaged over T steps, which theory bounds by a multiple of 1/sqrt(T).
"""

import json
import math
import os
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.progress import track
from torch import Tensor, nn
from torch.optim import SGD

from common import PACKAGES, show
from grawa import Averager
from grawa.flatness import Surface, gradient_norm
from grawa.lab.cli import names
from grawa.lab.experiments.environment import environment
from grawa.lab.files import write_text
from grawa.lab.tasks import Digits
from grawa.seeding import generator
from theory_pictures import convex_picture, nonconvex_picture
from theory_problems import TASKS, WORKERS, Kind, Problem, Steps, expected, lr, models

METHODS = {
    "mgrawa": "MGRAWA",
    "lgrawa": "LGRAWA",
    "uniform": "uniform",
    "easgd": "EASGD",
    "lsgd": "LSGD",
    "local_sgd": "LocalSGD",
    "diloco": "DiLoCo",
    "data_parallel": "data parallel",
}
CONDITIONS: tuple[tuple[Kind, Steps], ...] = (
    ("iid", "constant"),
    ("iid", "decaying"),
    ("biased worker", "decaying"),
    ("non-iid", "constant"),
    ("non-iid", "decaying"),
)
NONCONVEX_LR = 2.0
"""Over sqrt(T), so that it is 0.25 for the shortest training and 0.06 for the longest."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is run."""

    seeds: int = 10
    """How many."""
    steps: int = 768
    """Local steps of each worker, convex."""
    nonconvex_steps: tuple[int, ...] = (64, 256, 1024)
    """T, non-convex."""
    sync_every: int = 16
    """Local steps between rounds."""
    batch_size: int = 4
    """Samples per worker and step; non-convex four times as many."""
    jobs: int = os.cpu_count() or 1
    """Runs at a time."""
    output: Path = Path("benchmarks/results/theory.json")
    """Where all values go; the pictures go beside it."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training: convex if it has a task, else non-convex."""

    method: str
    seed: int
    steps: int
    asked: Config
    task: str = ""
    condition: tuple[Kind, Steps] = ("iid", "constant")


def run(job: Job) -> list[float]:
    """What was measured after each round."""
    torch.set_num_threads(1)  # trainings share the cores
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
    """Trains by a schedule of learning rates, and measures the consensus after each round."""
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


def over_seeds(curves: Sequence[Sequence[float]]) -> dict[str, list[float]]:
    """Mean and standard error at each round."""
    count = math.sqrt(len(curves))
    columns = list(zip(*curves, strict=True))
    errors = [statistics.stdev(c) / count if len(c) > 1 else 0.0 for c in columns]
    return {"mean": [statistics.fmean(c) for c in columns], "standard_error": errors}


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Of a straight line through the logarithms, by least squares."""
    logs = [[math.log(value) for value in values] for values in (xs, ys)]
    return statistics.linear_regression(*logs).slope


def tail(curve: Sequence[float]) -> float:
    """The mean over the last quarter of the rounds."""
    return statistics.fmean(curve[-max(1, len(curve) // 4) :])


def summarise(curves: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The curve of a method under a condition, its end and its slope over the last three quarters.

    Ends and slopes are those of each seed's own curve, then their mean and standard error.
    """
    first = len(curves[0]) // 4
    rounds = [float(i + 1) for i in range(first, len(curves[0]))]
    slopes = [[slope(rounds, curve[first:])] for curve in curves]
    ends = over_seeds([[tail(curve)] for curve in curves])
    fitted = over_seeds(slopes)
    return {
        **over_seeds(curves),
        "end": [ends["mean"][0], ends["standard_error"][0]],
        "slope": [fitted["mean"][0], fitted["standard_error"][0]],
    }


def convex_results(found: dict[Job, list[float]], asked: Config) -> dict[str, Any]:
    """Task -> condition -> method -> summary; with what is expected, where it can be computed."""
    results: dict[str, Any] = {}
    for task, condition in product(TASKS, CONDITIONS):
        of = {
            method: summarise([
                curve
                for job, curve in found.items()
                if (job.task, job.condition, job.method) == (task, condition, method)
            ])
            for method in METHODS
        }
        if task == "quadratic":
            kind, steps = condition
            every = slice(asked.sync_every - 1, None, asked.sync_every)
            curves = [
                expected(kind, steps, asked.steps, asked.batch_size, seed)[every]
                for seed in range(asked.seeds)
            ]
            if kind != "non-iid":
                of["expected"] = summarise(curves)
        results.setdefault(task, {})[", ".join(condition)] = of
    return results


def nonconvex_results(found: dict[Job, list[float]], asked: Config) -> dict[str, Any]:
    """Method -> the averages over T for each T, and their slope."""
    results = {}
    for method in METHODS:
        averages = [
            [
                statistics.fmean(curve)
                for job, curve in found.items()
                if not job.task and (job.method, job.steps) == (method, steps)
            ]
            for steps in asked.nonconvex_steps
        ]
        by_seed = list(zip(*averages, strict=True))
        fitted = over_seeds([[slope(asked.nonconvex_steps, ones)] for ones in by_seed])
        results[method] = {
            **over_seeds(by_seed),
            "slope": [fitted["mean"][0], fitted["standard_error"][0]],
        }
    return results


def main(asked: Config) -> None:
    """Runs everything, writes, draws and prints."""
    todo = jobs(asked)
    with ProcessPoolExecutor(asked.jobs, get_context("spawn")) as pool:
        curves = track(pool.map(run, todo, chunksize=4), "training", total=len(todo))
        found = dict(zip(todo, curves, strict=True))
    convex, nonconvex = convex_results(found, asked), nonconvex_results(found, asked)
    results = {
        "environment": environment(PACKAGES),
        "config": {**asdict(asked), "output": str(asked.output)},
        "convex": convex,
        "nonconvex": nonconvex,
    }
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    write_text(asked.output, json.dumps(results) + "\n")
    convex_picture(convex, METHODS, asked.output.with_name("theory_convex.png"))
    path = asked.output.with_name("theory_nonconvex.png")
    nonconvex_picture(nonconvex, METHODS, asked.nonconvex_steps, path)
    tables(convex, nonconvex)
    print(f"Mean ± standard error of {asked.seeds} seeds. All values are in {asked.output}")


def tables(convex: dict[str, Any], nonconvex: dict[str, Any]) -> None:
    """Prints ends and slopes."""
    titles = {**METHODS, "expected": "expected"}
    for task, conditions in convex.items():
        rows = [
            [title, *(_cell(found.get(method), "end") for found in conditions.values())]
            for method, title in titles.items()
        ]
        heads = [
            name.replace("constant", "const").replace("decaying", "dec") for name in conditions
        ]
        show(f"{task}: squared distance, last quarter of the rounds", ["method", *heads], rows)
    rows = []
    for method, title in titles.items():
        slopes = [_cell(found["iid, decaying"].get(method), "slope") for found in convex.values()]
        mine = nonconvex.get(method)
        ends = [] if mine is None else [f"{m:.2g} ± {e:.1g}" for m, e in (_pairs(mine)[-1],)]
        rows.append([title, *slopes, *(ends or ["-"]), _cell(mine, "slope")])
    heads = [*(f"{task}, dec." for task in convex), "digits, end", "digits, over T"]
    show(
        "Slopes: over rounds, theory -1; of the mean squared gradient norm over T, at most -0.5",
        ["method", *heads],
        rows,
    )


def _pairs(summary: dict[str, Any]) -> list[tuple[float, float]]:
    return list(zip(summary["mean"], summary["standard_error"], strict=True))


def _cell(summary: dict[str, Any] | None, what: str) -> str:
    if summary is None:
        return "-"
    mean, error = summary[what]
    return f"{mean:.2f} ± {error:.2f}" if what == "slope" else f"{mean:.2g} ± {error:.1g}"


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
