"""Many workers in one process: time and memory of a worker-step. Many machines: a prediction.

Run `python benchmarks/scale.py`; `--help` tells the options. Each number of workers is measured in
a fresh process, one after another and stacked (`--stack-workers`), in an order drawn anew for each
turn; what counts is the processor's time, of one thread. The prediction is the planner's, for a
model and a step that are given; what a round computes is measured here.
"""

import os
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
import tyro
from rich.progress import track
from torch.optim import SGD

import grawa
from common import show, verdict, write_results
from grawa.lab.planning.measure import Subject, measure
from grawa.lab.planning.predict import Measured, Variant, predict, scaled
from grawa.lab.simulate.network import Link, Network
from models import ManyTensors
from pictures import scale_picture
from scale_worker import TASKS, Found, Job, tensor_bytes, work

TARGET = 1.3
"""Of the rise of time and memory per worker."""

LEAST = {"time": 4, "memory": 16}
"""Workers from which on a worker's time and memory are to be flat. Below, a step takes hardly more
than what it takes whatever the number, and workers fill memory that starting up has freed."""

PRELOADED = [
    *("torch", "torch._dynamo", "sklearn.datasets", "grawa.lab.train.loop"),
    *("matplotlib.pyplot", "rich.progress", "tyro"),
]
"""What each fresh process finds there: packages, but nothing that was computed."""

KINDS = ("one by one", "stacked")

VARIANTS = {
    "data parallel": ("data_parallel", Variant(), 1),
    "LocalSGD, every 32": ("local_sgd", Variant(), 32),
    "LGRAWA, every 32": ("lgrawa", Variant(), 32),
    "LGRAWA, every 32, overlap": ("lgrawa", Variant(overlap=True), 32),
}
"""What is predicted: strategy, variant, local steps between rounds."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is measured and predicted."""

    workers: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    """With the MLP."""
    cnn_workers: tuple[int, ...] = (1, 8, 64)
    """With the CNNs."""
    turns: int = 3
    """Measurements of each."""
    worker_steps: int = 1024
    """Timed in each, at least."""
    machines: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
    """Workers to predict for, on a ring."""
    links: tuple[str, ...] = ("1gbit:100us", "100gbit:10us")
    """Between them."""
    parameters: int = 25_600_000
    """Of the model to predict for, float32: as many as ResNet-50 has."""
    tensors: int = 161
    """That they are in."""
    step: float = 0.1
    """Seconds of a local step."""
    samples: int = 32
    """Of a local step."""
    output: Path = Path("benchmarks/results/scale.json")
    """Where all samples go; the picture beside it."""


def main(config: Config) -> None:
    """Measures, predicts, writes, draws and prints."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    jobs = _jobs(config)
    samples = _measured(jobs, config.turns)
    medians = {job: _median(samples[job]) for job in jobs}
    foundation = _foundation(config)
    predictions = {link: _predicted(config, foundation, link) for link in config.links}
    write_results(
        config.output,
        {
            "config": {**asdict(config), "output": str(config.output)},
            "samples": [{**asdict(j), "found": [asdict(f) for f in samples[j]]} for j in jobs],
            "foundation": asdict(foundation),
            "predictions": predictions,
        },
    )
    picture = config.output.with_suffix(".png")
    scale_picture(_series(medians), _memory(medians), predictions, picture)
    for model in TASKS:
        _show_model(model, medians)
    _show_predictions(config, predictions)
    _judge(medians)
    print(f"all samples are in {config.output}, the picture in {picture}")


def _jobs(config: Config) -> list[Job]:
    return [
        Job(model=model, stacked=stacked, workers=n, worker_steps=config.worker_steps)
        for model in TASKS
        for stacked in (False, True)
        for n in (config.workers if model == "MLP" else config.cnn_workers)
    ]


def _measured(jobs: Sequence[Job], turns: int) -> dict[Job, list[Found]]:
    """Each job in a fresh process, in an order of its own in each turn."""
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    samples: dict[Job, list[Found]] = {job: [] for job in jobs}
    order = [job for turn in range(turns) for job in random.Random(turn).sample(jobs, len(jobs))]
    for job in track(order, "worker-steps"):
        with context.Pool(1) as pool:
            samples[job].append(pool.apply(work, (job,)))
    return samples


def _median(found: Sequence[Found]) -> Found:
    return Found(
        seconds=statistics.median(one.seconds for one in found),
        wall_seconds=statistics.median(one.wall_seconds for one in found),
        rest=round(statistics.median(one.rest for one in found)),
        peak=round(statistics.median(one.peak for one in found)),
    )


def _foundation(config: Config) -> Measured:
    """A step as it is given, and rounds as they are measured here; the link is put in later."""
    model = ManyTensors(config.parameters, config.tensors)
    subject = Subject(
        model=model,
        optimizer=SGD(model.parameters(), lr=0.1),
        step=partial(time.sleep, config.step),
        samples=config.samples,
    )
    strategies = {
        "data_parallel": grawa.DataParallel(),
        "local_sgd": grawa.LocalSGD(),
        "lgrawa": grawa.LGRAWA(),
    }
    network = Network(Link.parse(config.links[0]), "ring", config.machines[0])
    print("measuring what a round computes")
    measured = measure(subject, strategies, network, lambda _: nullcontext())
    return replace(measured, step_seconds=config.step)


def _predicted(config: Config, measured: Measured, link: str) -> dict[str, dict[int, float]]:
    """Name -> number of workers -> milliseconds of a local step, with its share of a round."""
    over_link = replace(measured, network=replace(measured.network, link=Link.parse(link)))
    names = [method.name for method in measured.methods]
    found: dict[str, dict[int, float]] = {}
    for name, (strategy, variant, tau) in VARIANTS.items():
        found[name] = {}
        for workers in config.machines:
            there = scaled(over_link, workers)
            method = there.methods[names.index(strategy)]
            rate = predict(there, method, variant, tau).samples_per_second
            found[name][workers] = 1e3 * workers * config.samples / rate
    return found


def _by_workers(medians: Mapping[Job, Found], model: str, stacked: bool) -> dict[int, Found]:
    chosen = (job for job in medians if (job.model, job.stacked) == (model, stacked))
    return {job.workers: medians[job] for job in chosen}


def _series(medians: Mapping[Job, Found]) -> dict[str, dict[int, float]]:
    """Microseconds of a worker-step, for each model and kind."""
    return {
        f"{model}, {kind}": {
            n: 1e6 * found.seconds for n, found in _by_workers(medians, model, bool(i)).items()
        }
        for model in TASKS
        for i, kind in enumerate(KINDS)
    }


def _memory(medians: Mapping[Job, Found]) -> dict[str, dict[int, float]]:
    """Kilobytes at the peak for each worker beside the first, for each model and kind."""
    series = {}
    for model in TASKS:
        for i, kind in enumerate(KINDS):
            found = _by_workers(medians, model, bool(i))
            first = found[min(found)].peak
            series[f"{model}, {kind}"] = {
                n: (one.peak - first) / (n - min(found)) / 1e3
                for n, one in found.items()
                if n > min(found)
            }
    return series


def _show_model(model: str, medians: Mapping[Job, Found]) -> None:
    time_of, memory = _series(medians), _memory(medians)
    looped, stacked = (f"{model}, {kind}" for kind in KINDS)
    rows = [
        [
            str(n),
            f"{time_of[looped][n]:.0f}",
            f"{time_of[stacked][n]:.0f}",
            f"{time_of[looped][n] / time_of[stacked][n]:.2f}",
            *(f"{memory[kind][n]:.0f}" if n in memory[kind] else "" for kind in (looped, stacked)),
        ]
        for n in time_of[looped]
    ]
    columns = ["workers", "us", "stacked", "faster by", "kB", "stacked"]
    show(f"{model} on digits, one by one and stacked", columns, rows)
    print(
        "us: of the processor, for a worker-step. kB: at the peak, for each worker beside the "
        "first; parameters, gradients and momentum are "
        f"{tensor_bytes(model) / 1e3:.0f} kB of it."
    )


def _show_predictions(
    config: Config, predictions: Mapping[str, Mapping[str, Mapping[int, float]]]
) -> None:
    shown = [n for i, n in enumerate(config.machines) if i % 3 == 0]
    for link, found in predictions.items():
        rows = [[name, *(f"{steps[n]:.0f}" for n in shown)] for name, steps in found.items()]
        show(f"Predicted ms of a local step over {link}", ["workers", *map(str, shown)], rows)
    print(
        f"{config.parameters / 1e6:g}M float32 parameters, steps of {config.step * 1e3:g} ms and "
        f"{config.samples} samples; data parallel without hiding messages behind the backward pass."
    )


def _rise(values: Mapping[int, float], first: int) -> float:
    """How far a cost rises as workers are added from `first` up, over the least with fewer."""
    least, rise = float("inf"), 1.0
    for n in sorted(values):
        if n >= first:
            least = min(least, values[n])
            rise = max(rise, values[n] / least)
    return rise


def _judge(medians: Mapping[Job, Found]) -> None:
    for what, series in (("time", _series(medians)), ("memory", _memory(medians))):
        for kind in KINDS:
            rise = _rise(series[f"MLP, {kind}"], LEAST[what])
            name = f"rise of {what} of an MLP's worker, {kind}, from {LEAST[what]} workers up"
            print(verdict(name, rise, TARGET))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
