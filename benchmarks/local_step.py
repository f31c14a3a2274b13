"""Measures a local step with an `Averager` attached, as a ratio to the bare step.

What is timed is all local steps between two rounds, but not the rounds: norms, proximal pull and
counting, on one thread, in processor time, which depends less on other load. All variants run in
each repetition, in random order. The methods are made to move a single worker, since a worker
without others is not averaged, and so needs neither norms nor pull.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW, Optimizer

import grawa
from command import Benchmark, Results
from common import Spread, columns, ratios, show, verdict
from grawa.lab.tasks.models.resnet import resnet20
from grawa.strategies.protocol import Strategy
from models import ManyTensors, moving_one
from processes import one_thread
from samples import Sample, Samples

TRAINING_TARGET = 1.03
OPTIMIZER_TARGET = 1.15

USUAL, LONG = 32, 128
"""Local steps between rounds."""

NOTED, PULLS = 25, 4
"""Steps of a cycle whose norms are noted, and pulls in it, with the usual decay and `prox`."""

VARIANTS: Mapping[str, tuple[Strategy, int] | None] = {
    "bare": None,
    "counting": (grawa.LocalSGD(), USUAL),
    "norms": (grawa.MGRAWA(prox=0.0), USUAL),
    "pull": (grawa.LocalSGD(prox=0.01), USUAL),
    "norms and pull": (grawa.MGRAWA(prox=0.01), USUAL),
    "norms and pull, rounds every 128 steps": (grawa.MGRAWA(prox=0.01), LONG),
}
"""A strategy and the local steps between its rounds."""

EXTRA_TRAFFIC = {
    "bare": 0.0,
    "counting": 0.0,
    "norms": NOTED / USUAL,
    "pull": 3 * PULLS / USUAL,
    "norms and pull": (NOTED + 3 * PULLS) / USUAL,
    "norms and pull, rounds every 128 steps": (NOTED + 3 * PULLS) / LONG,
}
"""Memory traffic of a step, in multiples of the parameters' bytes: norms read the gradients; a pull
reads two tensors and writes one."""

OPTIMIZERS: Mapping[str, tuple[type[SGD] | type[AdamW], dict[str, Any], int]] = {
    "SGD": (SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}, 5),
    "AdamW": (AdamW, {}, 7),
}
"""Class, options, and least memory traffic of a step in multiples of the parameters' bytes: SGD
reads parameters, gradients and momentum and writes two of them; AdamW reads and writes one more."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options."""

    cycles: int = 8
    """Cycles of each variant with the optimizer only."""
    training_cycles: int = 4
    """Cycles of each variant with forward and backward pass."""
    batch: int = 128
    """Images per step."""
    parameters: int = 10_000_000
    """P, float32, of the model for steps with the optimizer only."""
    tensors: int = 200
    """L, of equal size."""


TOY = Config(cycles=2, training_cycles=1, batch=2, parameters=1000, tensors=10)


def measure(config: Config, samples: Samples) -> None:
    """Measures all variants repeatedly, first with whole steps, then with optimizers only."""
    with one_thread():
        _measure("ResNet-20", _training(config), config.training_cycles, samples)
        for optimizer in OPTIMIZERS:
            for fused in (False, True):
                title = f"{optimizer}, fused" if fused else optimizer
                cycles = _optimizer_alone(optimizer, fused, config)
                _measure(title, cycles, config.cycles, samples)


def merge(_: Config, samples: Sequence[Sample]) -> Results:
    """Kind of step -> variant -> seconds of each repetition."""
    titles = dict.fromkeys(sample["step"] for sample in samples)
    return {
        "seconds": {
            title: columns([sample["seconds"] for sample in samples if sample["step"] == title])
            for title in titles
        }
    }


@dataclass(frozen=True)
class Cycle:
    """The local steps from one round to the next, of a variant."""

    step: Callable[[], object]
    length: int

    def timed(self) -> float:
        """Makes one step; returns its processor seconds."""
        start = time.process_time()
        self.step()
        return time.process_time() - start


def _cycle(name: str, model: nn.Module, optimizer: Optimizer, step: Callable[[], object]) -> Cycle:
    variant = VARIANTS[name]
    if variant is None:
        return Cycle(step, USUAL)
    strategy, every = variant
    grawa.Averager(model, optimizer, moving_one(strategy), sync_every=every).attach()
    return Cycle(step, every)


def _training(config: Config) -> dict[str, Cycle]:
    """Whole local steps of ResNet-20: forward, backward, optimizer."""
    images, labels = torch.randn(config.batch, 3, 32, 32), torch.randint(10, (config.batch,))
    found = {}
    for name in ("bare", "norms and pull"):
        torch.manual_seed(0)
        model = resnet20((3, 32, 32), 10)
        optimizer = _make(model, "SGD", fused=False)
        step = partial(_train, model, optimizer, images, labels)
        found[name] = _cycle(name, model, optimizer, step)
    return found


def _train(model: nn.Module, optimizer: Optimizer, images: Tensor, labels: Tensor) -> None:
    optimizer.zero_grad()
    loss: Tensor = cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()


def _optimizer_alone(optimizer: str, fused: bool, config: Config) -> dict[str, Cycle]:
    found = {}
    for name in VARIANTS:
        model = ManyTensors(config.parameters, config.tensors)
        made = _make(model, optimizer, fused=fused)
        found[name] = _cycle(name, model, made, made.step)
    return found


def _make(model: nn.Module, name: str, *, fused: bool) -> Optimizer:
    kind, options, _ = OPTIMIZERS[name]
    return kind(model.parameters(), lr=1e-6, fused=fused or None, **options)


def _measure(title: str, cycles: Mapping[str, Cycle], turns: int, samples: Samples) -> None:
    for cycle in cycles.values():
        for _ in range(cycle.length):  # lazily created state, and the first round
            cycle.step()
    order = random.Random(0)
    for turn in track(range(turns), f"{title:13}"):
        seconds = _seconds(cycles, order)
        samples.add(step=title, turn=turn, seconds={name: seconds[name] for name in cycles})


def _seconds(cycles: Mapping[str, Cycle], order: random.Random) -> dict[str, float]:
    """Mean seconds of a step of each variant, whose steps alternate; without those with a round."""
    total = dict.fromkeys(cycles, 0.0)
    for number in range(1, max(cycle.length for cycle in cycles.values())):
        under_way = [name for name, cycle in cycles.items() if number < cycle.length]
        for name in order.sample(under_way, len(under_way)):
            total[name] += cycles[name].timed()
    for cycle in cycles.values():
        cycle.step()
    return {name: seconds / (cycles[name].length - 1) for name, seconds in total.items()}


def tables(config: Config, results: Results) -> None:
    """Prints the ratios, and whether they meet their targets."""
    _show(config, results["seconds"])
    _judge(results["seconds"])


def _show(config: Config, seconds: Mapping[str, Mapping[str, list[float]]]) -> None:
    rows = [
        _row(title, name, samples, variants["bare"])
        for title, variants in seconds.items()
        for name, samples in variants.items()
    ]
    columns = ["local step", "attached", "median ms", "ratio", "quartiles", "by traffic"]
    size = f"{config.parameters:,} parameters in {config.tensors} tensors"
    show(f"ResNet-20 at batch {config.batch}; optimizers alone on {size}", columns, rows)
    megabytes = 4 * config.parameters / 1e6
    print(
        f"by traffic: were memory the only limit. Norms must read {megabytes:.0f} MB of gradients, "
        f"the pull must move {3 * megabytes:.0f} MB,\n"
        + " and ".join(
            f"a step of {name} at least {times * megabytes:.0f} MB"
            for name, (_, _, times) in OPTIMIZERS.items()
        )
        + "."
    )


def _row(title: str, name: str, samples: list[float], bare: list[float]) -> list[str]:
    ratio = ratios(samples, bare)
    own = OPTIMIZERS.get(title.removesuffix(", fused"))
    return [
        title,
        name,
        f"{Spread.of(samples).median * 1e3:.2f}",
        f"{ratio.median:.3f}",
        f"{ratio.low:.3f} - {ratio.high:.3f}",
        f"{1 + EXTRA_TRAFFIC[name] / own[2]:.2f}" if own else "",
    ]


def _judge(seconds: Mapping[str, Mapping[str, list[float]]]) -> None:
    for title, variants in seconds.items():
        target = OPTIMIZER_TARGET if title.startswith(tuple(OPTIMIZERS)) else TRAINING_TARGET
        for name in variants:
            if name.startswith("norms and pull"):
                ratio = ratios(variants[name], variants["bare"])
                print(verdict(f"{title}, {name}", ratio.median, target))


BENCHMARK = Benchmark(
    name="local_step",
    text=__doc__,
    takes="four minutes of one core",
    config=Config(),
    toy=TOY,
    measure=measure,
    merge=merge,
    show=tables,
)
main = BENCHMARK.run

if __name__ == "__main__":
    main()
