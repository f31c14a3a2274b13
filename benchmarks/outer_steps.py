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
from command import Benchmark, Results, check_same_options
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
    "AdamW": (0.0005, 0.001, 0.002, 0.004),
    "Muon": (0.01, 0.02, 0.04, 0.08),
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
    for job, bits in _all_bits("tune", tuning, config, samples):
        tried.setdefault((job.optimizer, job.outer), {}).setdefault(job.lr, []).append(bits)
    jobs = [
        Job(optimizer=name, outer=outer, lr=best(tried[name, outer]), seed=seed, asked=config)
        for seed in range(config.seeds)
        for name, outer in variants
    ]
    _all_bits("run", jobs, config, samples)


def _all_bits(
    what: str, jobs: Sequence[Job], config: Config, samples: Samples
) -> list[tuple[Job, float]]:
    """Trains what there is no sample of yet, and returns all jobs with their bits per byte."""
    known = {_key(s): s["bits"] for s in samples.read()[1]}
    missing = [job for job in jobs if _key(_told(what, job)) not in known]
    for job, bits in one_by_one(bits_of, missing, config.jobs, what):
        samples.add(**_told(what, job), bits=bits)
        known[_key(_told(what, job))] = bits
    return [(job, known[_key(_told(what, job))]) for job in jobs]


def _told(what: str, job: Job) -> Sample:
    one = job.optimizer, job.outer, job.lr, job.seed
    return {"what": what, **dict(zip(("optimizer", "outer", "lr", "seed"), one, strict=True))}


def _key(sample: Sample) -> tuple[object, ...]:
    return tuple(sample[name] for name in ("what", "optimizer", "outer", "lr", "seed"))


def best(tried: Mapping[float, Sequence[float]]) -> float:
    """The learning rate with the least mean."""
    return min(tried, key=lambda lr: statistics.mean(tried[lr]))


def resume(
    config: Config, earlier: Config, samples: Sequence[Sample]
) -> tuple[Config, Sequence[Sample]]:
    """Keeps the samples of a run with the same options."""
    check_same_options(config, earlier, but="jobs")
    return config, samples


def merge(_: Config, samples: Sequence[Sample]) -> Results:
    """Bits per byte: optimizer -> outer steps -> by learning rate, and by seed at the best."""
    tuned: dict[str, dict[str, dict[str, list[float]]]] = {}
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for s in samples:
        if s["what"] == "tune":
            own = tuned.setdefault(s["optimizer"], {}).setdefault(s["outer"], {})
            own.setdefault(f"{s['lr']:g}", []).append(s["bits"])
        else:
            one = found.setdefault(s["optimizer"], {}).setdefault(s["outer"], {"lr": s["lr"]})
            one.setdefault("bits", []).append(s["bits"])
    return {"tuned": tuned, "found": found}


def table(config: Config, results: Results) -> None:
    """Prints bits per byte, and their differences from the optimizer alone."""
    for optimizer, tuned in results["tuned"].items():
        rates = [f"{lr:g}" for lr in LRS[optimizer]]
        show(
            f"{optimizer}, one worker: bits per byte by learning rate, {config.tuning_seeds} seeds",
            ["outer steps", *rates],
            [[name, *(_mean(own.get(rate, ())) for rate in rates)] for name, own in tuned.items()],
        )
    for optimizer, found in results["found"].items():
        show(
            f"{optimizer}, one worker: bits per byte at the best, {config.seeds} seeds",
            ["outer steps", "learning rate", "bits per byte", "minus without, paired"],
            [
                [name, f"{own['lr']:g}", _mean(own["bits"]), _minus(own, found)]
                for name, own in found.items()
            ],
        )


def _mean(bits: Sequence[float]) -> str:
    return f"{statistics.mean(bits):.3f}" if bits else ""


def _minus(own: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]]) -> str:
    alone = found["none"]  # which comes first with every seed
    if own is alone:
        return ""
    differences = [a - b for a, b in zip(own["bits"], alone["bits"], strict=False)]
    spread = statistics.stdev(differences) if len(differences) > 1 else 0.0
    return f"{statistics.mean(differences):+.3f} ± {spread / len(differences) ** 0.5:.3f}"


BENCHMARK = Benchmark(
    name="outer_steps",
    text=__doc__,
    takes="5 minutes of two cores",
    config=Config(),
    toy=TOY,
    measure=measure,
    merge=merge,
    show=table,
    resume=resume,
)
main = BENCHMARK.run

if __name__ == "__main__":
    main()
