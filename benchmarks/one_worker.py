"""Measures whether outer steps help a single worker, with AdamW and with Muon inside.

One worker learns `text` with a transformer of 46 thousand parameters. It trains with its optimizer
alone, and with `grawa.OuterSteps` around it (SNOO; with Muon inside, MuLoCo on one worker). Muon
moves the matrices of the blocks, and AdamW all else. The learning rate of each is chosen alike, on
a seed of its own, and falls to zero with a cosine.
"""

import math
import os
import statistics
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

import grawa
from command import Benchmark, Results
from common import show
from grawa.lab.tasks.text import Text
from grawa.seeding import generator
from processes import one_by_one
from samples import Sample, Samples

TASK = Text(architecture="transformer_small", context=32, train_bytes=300_000, test_bytes=8_000)

OUTER: Mapping[str, grawa.OuterNesterov | None] = {
    "none": None,
    "momentum 0.3": grawa.OuterNesterov(lr=0.7, momentum=0.3),
    "momentum 0.9": grawa.OuterNesterov(lr=0.7, momentum=0.9),
    "momentum 0.9, restarts": grawa.OuterNesterov(lr=0.7, momentum=0.9, restart_every=3),
}
"""Outer steps, with a learning rate of 0.7."""

LRS: Mapping[str, Sequence[float]] = {
    "AdamW": (0.002, 0.004, 0.008),
    "Muon": (0.01, 0.02, 0.04),
}
"""Learning rates that are tried."""

_BESIDE_MUON = 0.2
"""AdamW's learning rate in that of the Muon beside it."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options."""

    optimizers: tuple[str, ...] = tuple(LRS)
    outer: tuple[str, ...] = tuple(OUTER)
    sync_every: int = 8
    """Local steps between outer steps."""
    steps: int = 256
    """Local steps."""
    batch_size: int = 8
    """Windows of 32 bytes in a batch."""
    seeds: int = 5
    """Number of seeds, from 0."""
    tuning_seeds: int = 1
    """Number of seeds, from 100, on which the learning rate is chosen."""
    jobs: int = os.cpu_count() or 1
    """Runs at a time."""


TOY = Config(
    optimizers=("Muon",), outer=("none", "momentum 0.3"), sync_every=2, steps=4,
    batch_size=2, seeds=2, tuning_seeds=1, jobs=1,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run."""

    optimizer: str
    outer: str
    lr: float
    seed: int
    asked: Config


def optimizers_of(name: str, model: nn.Module, lr: float) -> list[Optimizer]:
    """One for all parameters, or Muon for the matrices of the blocks and AdamW for the rest."""
    if name == "AdamW":
        return [AdamW(model.parameters(), lr=lr)]
    named = dict(model.named_parameters())
    inner = [p for n, p in named.items() if p.dim() == 2 and n.startswith("blocks.")]
    rest = [p for p in named.values() if not any(p is one for one in inner)]
    return [Muon(inner, lr=lr), AdamW(rest, lr=_BESIDE_MUON * lr)]


def bits_of(job: Job) -> float:
    """Trains, and measures bits per byte of the test text; infinite if it diverged."""
    asked, random = job.asked, generator(job.seed, "batches")
    data, model = TASK.data(job.seed), TASK.model(job.seed)
    optimizers = optimizers_of(job.optimizer, model, job.lr)
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(one, asked.steps) for one in optimizers]
    outer = OUTER[job.outer]
    around: AbstractContextManager[object] = nullcontext()
    if outer is not None:
        method = grawa.OuterSteps(outer=outer)
        around = grawa.Averager(model, optimizers, method, sync_every=asked.sync_every)
    with around:
        for _ in range(asked.steps):
            picked = torch.randint(len(data.train_inputs), (asked.batch_size,), generator=random)
            model.zero_grad()
            TASK.loss(model, data.train_inputs[picked], data.train_targets[picked]).backward()
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                schedule.step()
    bits = TASK.measure(model, data)
    return bits if math.isfinite(bits) else math.inf


def measure(config: Config, samples: Samples) -> None:
    """Chooses each variant's learning rate, and trains it with every seed."""
    variants = list(product(config.optimizers, config.outer))
    tuning = [
        Job(optimizer=name, outer=outer, lr=lr, seed=100 + seed, asked=config)
        for name, outer in variants
        for lr, seed in product(LRS[name], range(config.tuning_seeds))
    ]
    tried: dict[tuple[str, str], dict[float, list[float]]] = {}
    for job, bits in one_by_one(bits_of, tuning, config.jobs, "tuning"):
        tried.setdefault((job.optimizer, job.outer), {}).setdefault(job.lr, []).append(bits)
        _add(samples, job, bits, what="tune")
    jobs = [
        Job(optimizer=name, outer=outer, lr=best(tried[name, outer]), seed=seed, asked=config)
        for seed in range(config.seeds)
        for name, outer in variants
    ]
    for job, bits in one_by_one(bits_of, jobs, config.jobs, "training"):
        _add(samples, job, bits, what="run")


def best(tried: Mapping[float, Sequence[float]]) -> float:
    """The learning rate with the least mean."""
    return min(tried, key=lambda lr: statistics.mean(tried[lr]))


def _add(samples: Samples, job: Job, bits: float, what: str) -> None:
    samples.add(
        what=what, optimizer=job.optimizer, outer=job.outer, lr=job.lr, seed=job.seed, bits=bits
    )


def merge(_: Config, samples: Sequence[Sample]) -> Results:
    """Optimizer -> outer steps -> learning rate, and bits per byte ordered by seed."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for s in samples:
        if s["what"] == "run":
            own = found.setdefault(s["optimizer"], {}).setdefault(s["outer"], {"lr": s["lr"]})
            own.setdefault("bits", []).append(s["bits"])
    return {"found": found}


def table(config: Config, results: Results) -> None:
    """Prints bits per byte, and their differences from the optimizer alone."""
    for optimizer, found in results["found"].items():
        show(
            f"{optimizer}, one worker: bits per byte, {config.seeds} seeds",
            ["outer steps", "learning rate", "bits per byte", "minus without, paired"],
            [
                [name, f"{own['lr']:g}", f"{statistics.mean(own['bits']):.3f}", _minus(own, found)]
                for name, own in found.items()
            ],
        )


def _minus(own: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]]) -> str:
    alone = found["none"]
    if own is alone:
        return ""
    differences = [a - b for a, b in zip(own["bits"], alone["bits"], strict=False)]
    spread = statistics.stdev(differences) if len(differences) > 1 else 0.0
    return f"{statistics.mean(differences):+.3f} ± {spread / len(differences) ** 0.5:.3f}"


BENCHMARK = Benchmark(
    name="one_worker",
    text=__doc__,
    takes="5 minutes of two cores",
    config=Config(),
    toy=TOY,
    measure=measure,
    merge=merge,
    show=table,
)
main = BENCHMARK.run

if __name__ == "__main__":
    main()
