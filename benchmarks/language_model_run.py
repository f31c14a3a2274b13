"""One run of `language_model.py`: workers train on one device, and their consensus is measured."""

import gc
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import nn

import grawa
from grawa.errors import DivergedError
from grawa.lab.cli.process import strategy_for
from grawa.lab.tasks import Data, Task
from grawa.math.host import wait_for
from grawa.rounds.report import RoundReport
from language_model_config import Config
from language_model_data import Asked, Corpus, corpus
from language_model_steps import one_by_one, stacked
from language_model_task import method_options, optimizers_of, task_of
from language_model_workers import Stream, population, streams
from schedules import warmup_and_cosine

CLIP = 1.0
"""The largest norm of a worker's gradient."""

_STACKED_PARAMETERS = 20_000_000
"""Of a model whose workers' gradients are computed in one pass on a GPU."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run."""

    what: str
    """"tune" or "run"."""
    quality: str
    sync_every: int
    method: str
    """With its options, without a name for tables."""
    seed: int
    lr: float

    @classmethod
    def of(cls, sample: Mapping[str, Any]) -> "Job":
        """The run that a sample is of."""
        return cls(**{each.name: sample[each.name] for each in fields(cls)})


def text_of(config: Config) -> Corpus:
    """The text of all runs."""
    size = config.resolved()
    return corpus(Asked(**{each.name: getattr(size, each.name) for each in fields(Asked)}))


@dataclass
class _Rounds:
    """What is kept of the rounds' reports."""

    weights: list[list[float] | None] = field(default_factory=list)
    """Of each round, (N,), means over groups."""
    left_out: Counter[int] = field(default_factory=Counter)
    """Worker -> in how many rounds."""
    reasons: set[str] = field(default_factory=set)
    bytes_sent: int = 0

    def __call__(self, report: RoundReport) -> None:
        rows = report.weights
        means = None if rows is None else rows.double().mean(dim=1).tolist()
        self.weights.append(None if means is None else [round(mean, 5) for mean in means])
        self.left_out.update(list(report.left_out))
        self.reasons.update(report.left_out.values())
        self.bytes_sent += report.bytes_sent


@dataclass
class _Curve:
    """The consensus's bits per byte along the way, and the seconds of training alone."""

    task: Task
    data: Data
    device: torch.device
    steps: list[int] = field(default_factory=list)
    bits: list[float | None] = field(default_factory=list)
    seconds: float = 0.0
    _since: float = 0.0

    def begin(self) -> None:
        """Training begins, or goes on."""
        self._since = time.perf_counter()

    def measure(self, averager: grawa.Averager) -> None:
        """Measures the consensus; the time does not count."""
        wait_for(self.device)
        self.seconds += time.perf_counter() - self._since
        with averager.consensus_applied() as model:
            found = self.task.measure(model, self.data)
        self.steps.append(averager.step)
        self.bits.append(found if math.isfinite(found) else None)
        self.begin()


def run(config: Config, job: Job) -> dict[str, Any]:
    """Trains, and measures the consensus along the way.

    Returns:
        The sample: the job, what workers read, the curve, weights and what it took.
    """
    began = time.perf_counter()
    size, device, text = config.resolved(), config.found_device(), text_of(config)
    task = task_of(size, text, device, bf16=config.in_bf16())
    kinds = population(job.quality, config.workers, job.seed)
    own = streams(
        text,
        kinds,
        seed=job.seed,
        steps=size.steps,
        batch=size.batch,
        context=size.context,
        device=device,
    )
    rounds, curve = _Rounds(), _Curve(task, task.data(job.seed), device)
    failure = ""
    try:
        _train(config, job, own, rounds, curve)
    except DivergedError as error:
        failure = str(error)
    gc.collect()  # models and their hooks refer to each other
    return {
        **asdict(job),
        "kinds": kinds,
        "steps": curve.steps,
        "bits": curve.bits,
        "final": None if failure else curve.bits[-1],
        "failure": failure,
        "weights": rounds.weights,
        "left_out": [rounds.left_out[worker] for worker in range(config.workers)],
        "reasons": sorted(rounds.reasons),
        "bytes_sent": rounds.bytes_sent,
        "training_seconds": round(curve.seconds, 3),
        "seconds": round(time.perf_counter() - began, 3),
        "bf16": config.in_bf16(),
        "device": config.device_name(),
        "text": text.about,
    }


def _train(config: Config, job: Job, own: Sequence[Stream], rounds: _Rounds, curve: _Curve) -> None:
    size, task, device = config.resolved(), curve.task, curve.device
    options, of_averager = method_options(
        job.method,
        workers=config.workers,
        steps=size.steps,
        sync_every=job.sync_every,
        seed=job.seed,
    )
    models = [task.model(job.seed).to(device) for _ in own]
    optimizers = [optimizers_of(model, config.optimizer, job.lr) for model in models]
    every = [optimizer for several in optimizers for optimizer in several]
    strategy = strategy_for(options, task, curve.data)
    averager = grawa.Averager(models, optimizers, strategy, on_round=rounds, **of_averager)
    gradients = (stacked if _is_stacked(config, models[0], device) else one_by_one)(task, models)
    with averager:
        curve.begin()
        for step in range(size.steps):
            averager.record_loss(gradients([stream.batch(step) for stream in own]))
            averager.share_gradients()
            averager.clip_grad_norm_(CLIP)
            for optimizer in every:
                for group in optimizer.param_groups:
                    group["lr"] = job.lr * warmup_and_cosine(step, size.steps)
                optimizer.step()
            if (step + 1) % (size.steps // config.points) == 0 and step + 1 < size.steps:
                curve.measure(averager)
    curve.measure(averager)


def _is_stacked(config: Config, model: nn.Module, device: torch.device) -> bool:
    if config.stack != "auto":
        return config.stack == "on"
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return device.type == "cuda" and parameters <= _STACKED_PARAMETERS
