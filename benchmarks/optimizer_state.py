"""Measures what it changes that the workers' optimizer state is averaged or reset at rounds.

Four workers, all in one process, learn images of digits (SGD with momentum, AdamW) and a small
byte-level language model (AdamW; Muon for matrices beside AdamW), averaged by LocalSGD. The state
stays local, or is averaged or reset in every round or every fourth. Each variant is run with the
same seeds, so with the same data, order and initial weights; differences are paired by seed.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import SGD, AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LambdaLR

import grawa
from command import Benchmark, Results, check_same_options
from common import show
from grawa.lab.cli import names
from grawa.lab.train.batches import Batches, shard
from grawa.seeding import generator
from paired import paired_row
from processes import one_by_one
from samples import Sample, Samples

Make = Callable[[nn.Module, float], list[Optimizer]]


def sgd(model: nn.Module, lr: float) -> list[Optimizer]:
    """SGD with Nesterov momentum."""
    return [SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=1e-4)]


def adamw(model: nn.Module, lr: float) -> list[Optimizer]:
    """AdamW with torch's defaults but for the rate."""
    return [AdamW(model.parameters(), lr=lr)]


def muon(model: nn.Module, lr: float) -> list[Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the rest."""
    inner = [p for name, p in model.named_parameters() if p.dim() == 2 and "blocks" in name]
    kept = {id(p) for p in inner}
    rest = [p for p in model.parameters() if id(p) not in kept]
    return [Muon(inner, lr=lr, adjust_lr_fn="match_rms_adamw"), AdamW(rest, lr=lr)]


DIGITS, TEXT = "digits", "text:model=transformer_small:context=32"

CASES: Mapping[str, tuple[str, Make, float]] = {
    "digits, SGD": (DIGITS, sgd, 0.2),
    "digits, AdamW": (DIGITS, adamw, 0.02),
    "text, AdamW": (TEXT, adamw, 0.004),
    "text, Muon": (TEXT, muon, 0.02),
}
"""Case -> the task, as for `grawa train`, what makes a worker's optimizers, and the rate, the best
of a few with the local state."""

State = Literal["local", "average", "reset"]

VARIANTS: Mapping[str, tuple[State, int]] = {
    "local": ("local", 1),
    "average": ("average", 1),
    "average, every 4th": ("average", 4),
    "reset": ("reset", 1),
    "reset, every 4th": ("reset", 4),
}
"""Variant -> `optimizer_state` and `optimizer_state_every`."""

WORKERS = 4


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options."""

    seeds: int = 8
    """Number of seeds, from 0."""
    cases: tuple[str, ...] = tuple(CASES)
    """Which of the cases."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Which of the variants."""
    sync_every: tuple[int, ...] = (8, 32)
    """Local steps between rounds."""
    steps: int = 320
    """Local steps of each worker; the rate falls to zero by a cosine."""
    batch_size: int = 8
    """Samples of a step."""
    jobs: int = os.cpu_count() or 1
    """Runs at a time."""


TOY = Config(seeds=2, cases=("digits, SGD",), sync_every=(2,), steps=9, jobs=1)

Run = tuple[int, str, int, str]
"""Seed, case, `sync_every` and variant."""


def trained(config: Config, run: Run) -> tuple[float, int]:
    """The consensus's metric, and the bytes that a worker has sent."""
    seed, case, sync_every, variant = run
    text, make, rate = CASES[case]
    task = names.task(text)
    data = task.data(seed)
    models = [task.model(seed) for _ in range(WORKERS)]
    several = [make(model, rate) for model in models]
    optimizers = [optimizer for own in several for optimizer in own]
    falls = [_cosine(optimizer, config.steps) for optimizer in optimizers]
    shards = shard(data.train_targets, WORKERS, "iid", seed)
    streams = [
        Batches(own, config.batch_size, generator(seed, "batches", k))
        for k, own in enumerate(shards)
    ]
    state, every = VARIANTS[variant]
    with grawa.Averager(
        models, several, grawa.LocalSGD(), sync_every=sync_every,
        optimizer_state=state, optimizer_state_every=every,
    ) as averager:  # fmt: skip
        for _ in range(config.steps):
            losses = []
            for model, stream in zip(models, streams, strict=True):
                model.zero_grad()
                batch = stream.next()
                loss = task.loss(model, data.train_inputs[batch], data.train_targets[batch])
                loss.backward()
                losses.append(loss.detach())
            averager.record_loss(torch.stack(losses))
            for optimizer in optimizers:
                optimizer.step()
            for fall in falls:
                fall.step()
    with averager.consensus_applied() as model:
        return task.measure(model, data), averager.bytes_sent


def _cosine(optimizer: Optimizer, steps: int) -> LambdaLR:
    share = partial(torch.linspace(0.0, torch.pi, steps + 1).cos().add(1.0).div(2.0).__getitem__)
    return LambdaLR(optimizer, lambda step: float(share(step)))


def measure(config: Config, samples: Samples) -> None:
    """Trains every variant with every seed, seed after seed."""
    everything = product(range(config.seeds), config.cases, config.sync_every, config.variants)
    _, found, _ = samples.read()
    done = {(s["seed"], s["case"], s["sync_every"], s["variant"]) for s in found}
    runs = [run for run in everything if run not in done]
    for run, (metric, sent) in one_by_one(partial(trained, config), runs, config.jobs, "training"):
        seed, case, sync_every, variant = run
        samples.add(
            seed=seed, case=case, sync_every=sync_every, variant=variant, metric=metric, sent=sent
        )


def resume(
    config: Config, earlier: Config, samples: Sequence[Sample]
) -> tuple[Config, Sequence[Sample]]:
    """Keeps all samples of a run with the same options, but for the number of seeds."""
    check_same_options(config, earlier, but="seeds")
    return config, samples


def merge(_: Config, samples: Sequence[Sample]) -> Results:
    """Case -> steps between rounds -> variant -> metrics by seed, and bytes of a worker."""
    found: dict[str, Any] = {}
    for sample in sorted(samples, key=lambda sample: sample["seed"]):
        cells = found.setdefault(sample["case"], {}).setdefault(str(sample["sync_every"]), {})
        cell = cells.setdefault(sample["variant"], {"metric": {}, "sent": sample["sent"]})
        cell["metric"][str(sample["seed"])] = sample["metric"]
    return {"found": found}


def table(config: Config, results: Results) -> None:
    """Prints metrics and differences to the local state, for each case."""
    for case, by_tau in results["found"].items():
        metric = names.task(CASES[case][0]).metric
        scale = 100.0 if metric == "test error" else 1.0
        rows = []
        for tau, cells in by_tau.items():
            plain = {s: scale * x for s, x in cells.get("local", {"metric": {}})["metric"].items()}
            for variant, cell in cells.items():
                own = {seed: scale * x for seed, x in cell["metric"].items() if seed in plain}
                rounds = config.steps // int(tau)
                pairs = list(own.values()), [plain[seed] for seed in own]
                digits = 2 if scale > 1.0 else 3
                told = paired_row(*pairs, is_plain=variant == "local", digits=digits)
                rows.append([tau, variant, *told, f"{cell['sent'] / rounds / 1000:,.0f}"])
        show(
            f"{case}: {metric}{', %' if scale > 1.0 else ''}, {config.seeds} seeds",
            ["sync_every", "state", "metric", "difference", "standard errors", "kB a round"],
            rows,
        )


BENCHMARK = Benchmark(
    name="optimizer_state",
    text=__doc__,
    takes="20 minutes of two cores",
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
