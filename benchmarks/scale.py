"""Measures time and memory per worker for many workers in a process; predicts many machines.

Each number of workers is measured in a fresh process, with workers that step one after another and
with stacked ones (`--stack-workers`), in random order in each repetition; times are processor times
of one thread. The predictions are the planner's, for a given model and step time; the computation
in a round is measured here.
"""

import random
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from rich.progress import track
from torch.optim import SGD

import grawa
from command import Benchmark, Results
from grawa.lab.planning.measure import LEAST_SECONDS, Subject, measure
from grawa.lab.planning.predict import Measured, Variant, predict, scaled
from grawa.lab.simulate.network import Link, Network
from models import ManyTensors
from pictures import scale_picture
from processes import begin, fresh_processes, one_thread
from samples import Sample, Samples
from scale_tables import (
    Predictions,
    judge,
    medians_of,
    memory,
    series,
    show_model,
    show_predictions,
)
from scale_worker import TASKS, Job, work

VARIANTS = {
    "data parallel": ("data_parallel", Variant(), 1),
    "LocalSGD, every 32": ("local_sgd", Variant(), 32),
    "LGRAWA, every 32": ("lgrawa", Variant(), 32),
    "LGRAWA, every 32, overlap": ("lgrawa", Variant(overlap=True), 32),
}
"""What is predicted: name -> strategy, variant, local steps between rounds."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options."""

    workers: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    """Numbers of workers with the MLP."""
    cnn_workers: tuple[int, ...] = (1, 8, 64)
    """Numbers of workers with the CNNs."""
    turns: int = 3
    """Number of measurements of each."""
    worker_steps: int = 1024
    """Least number of worker-steps that are timed in each."""
    sync_every: int = 32
    """Local steps between rounds."""
    machines: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
    """Numbers of workers to predict for, on a ring."""
    links: tuple[str, ...] = ("1gbit:100us", "100gbit:10us")
    """Links between them."""
    parameters: int = 25_600_000
    """Parameters of the model to predict for, float32; the default is ResNet-50's."""
    tensors: int = 161
    """Number of its parameter tensors."""
    step: float = 0.1
    """Seconds of a local step."""
    samples: int = 32
    """Samples of a local step."""
    planning: float = LEAST_SECONDS
    """Seconds for which each kind of round is repeated to measure its computation."""


TOY = Config(
    workers=(1, 2),
    cnn_workers=(1,),
    turns=1,
    worker_steps=1,
    sync_every=4,
    planning=0.0,
    machines=(8, 16),
    parameters=1000,
    tensors=10,
    step=0.001,
)


def measure_all(config: Config, samples: Samples) -> None:
    """Measures each job in a fresh process, in random order in each repetition; then predicts."""
    asked = jobs(config)
    context = fresh_processes()
    turns = [random.Random(turn).sample(asked, len(asked)) for turn in range(config.turns)]
    for job in track([job for turn in turns for job in turn], "worker-steps"):
        with context.Pool(1, begin) as pool:
            samples.add(job=asdict(job), found=asdict(pool.apply(work, (job,))))
    with one_thread():
        foundation = _foundation(config)
    predictions = {link: _predicted(config, foundation, link) for link in config.links}
    samples.add(foundation=asdict(foundation), predictions=predictions)


def merge(config: Config, samples: Sequence[Sample]) -> Results:
    """The measurements of each job, and the predictions."""
    found: dict[Job, list[Sample]] = {job: [] for job in jobs(config)}
    predicted: Sample = {"predictions": {}}
    for sample in samples:
        if "job" in sample:
            found[Job(**sample["job"])].append(sample["found"])
        else:
            predicted = sample
    measured = [{**asdict(job), "found": those} for job, those in found.items() if those]
    return {"samples": measured, **predicted}


def tables(config: Config, results: Results) -> None:
    """Prints costs, predictions, and whether costs rise too much."""
    medians = medians_of(results["samples"])
    for model in TASKS:
        show_model(model, medians)
    show_predictions(_predictions(results))
    print(
        f"{config.parameters / 1e6:g}M float32 parameters, steps of {config.step * 1e3:g} ms and "
        f"{config.samples} samples; data parallel without hiding messages behind the backward pass."
    )
    judge(medians)


def draw(config: Config, results: Results, folder: Path) -> None:
    """Draws the content of the tables."""
    # Older samples don't have the option `sync_every`, which makes no difference here.
    medians = medians_of([{"sync_every": config.sync_every, **job} for job in results["samples"]])
    path = folder / "scale.png"
    predictions = _predictions(results)
    scale_picture(series(medians), memory(medians), predictions, 1e3 * config.step, path)


def _predictions(results: Results) -> Predictions:
    """The predictions with integer numbers of workers, which JSON has turned into text."""
    return {
        link: {name: {int(n): ms for n, ms in steps.items()} for name, steps in found.items()}
        for link, found in results["predictions"].items()
    }


def jobs(config: Config) -> list[Job]:
    """All measurements of a repetition."""
    return [
        Job(
            model=model,
            stacked=stacked,
            workers=n,
            worker_steps=config.worker_steps,
            sync_every=config.sync_every,
        )
        for model in TASKS
        for stacked in (False, True)
        for n in (config.workers if model == "MLP" else config.cnn_workers)
    ]


def _foundation(config: Config) -> Measured:
    """Measurements with the given step and with rounds measured here; the link is set later."""
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
    print("measuring the computation in a round")
    measured = measure(subject, strategies, network, _quietly, least_seconds=config.planning)
    return replace(measured, step_seconds=config.step)


def _quietly(_: str) -> AbstractContextManager[object]:
    return nullcontext()


def _predicted(config: Config, measured: Measured, link: str) -> dict[str, dict[int, float]]:
    """Name -> number of workers -> milliseconds of a local step, including its part of a round."""
    over_link = replace(measured, network=replace(measured.network, link=Link.parse(link)))
    names = [method.name for method in measured.methods]
    found: dict[str, dict[int, float]] = {}
    for name, (strategy, variant, tau) in VARIANTS.items():
        found[name] = {}
        for workers in config.machines:
            there = scaled(over_link, workers)
            method = there.methods[names.index(strategy)]
            speed = predict(there, method, variant, tau).speed
            found[name][workers] = 1e3 * config.step / speed
    return found


BENCHMARK = Benchmark(
    name="scale",
    text=__doc__,
    takes="5 minutes of one core",
    config=Config(),
    toy=TOY,
    measure=measure_all,
    merge=merge,
    show=tables,
    draw=draw,
)
main = BENCHMARK.run

if __name__ == "__main__":
    main()
