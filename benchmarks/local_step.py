"""Measures a local step with an `Averager` attached, as a ratio to the bare step.

There is no round during the measurement: it times norms, proximal pull and counting, on one thread,
in processor time, which depends less on other load. All variants run in each repetition, in random
order. A second process only takes part in the setup and then waits, because a worker without others
is not averaged, and so needs neither norms nor pull.
"""

import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.progress import track
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW, Optimizer

import grawa
from command import Benchmark, Results
from common import Spread, columns, ratios, show, verdict
from grawa.lab.tasks.models.resnet import resnet20
from grawa.strategies.protocol import Strategy
from methods import QUIETLY
from models import ManyTensors
from processes import together
from samples import Sample, Samples

NEVER = 10**9
"""Local steps between rounds."""

TRAINING_TARGET = 1.03
OPTIMIZER_TARGET = 1.15

Step = Callable[[], int]
"""Makes steps; returns how many."""

SOMETIMES = 4
"""`hook_every` of the variants in which only every fourth step has norms and pull."""

Attached = tuple[Strategy, int]
"""A strategy and `hook_every`."""

VARIANTS: Mapping[str, Attached | None] = {
    "bare": None,
    "counting": (grawa.LocalSGD(), 1),
    "norms": (grawa.MGRAWA(prox=0.0), 1),
    "pull": (grawa.LocalSGD(prox=0.01), 1),
    "norms and pull": (grawa.MGRAWA(prox=0.01), 1),
    "every fourth step": (grawa.MGRAWA(prox=0.01), SOMETIMES),
}

EXTRA_TRAFFIC = {
    "bare": 0.0,
    "counting": 0.0,
    "norms": 1.0,
    "pull": 3.0,
    "norms and pull": 4.0,
    "every fourth step": 4.0 / SOMETIMES,
}
"""Memory traffic in multiples of the parameters' bytes: norms read the gradients; the pull reads
two tensors and writes one."""

OPTIMIZERS: Mapping[str, tuple[type[SGD] | type[AdamW], dict[str, Any], int]] = {
    "SGD": (SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}, 5),
    "AdamW": (AdamW, {}, 7),
}
"""Class, options, and least memory traffic of a step in multiples of the parameters' bytes: SGD
reads parameters, gradients and momentum and writes two of them; AdamW reads and writes one more."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options."""

    steps: int = 100
    """Steps of each variant with the optimizer only."""
    training_steps: int = 25
    """Steps of each variant with forward and backward pass."""
    batch: int = 128
    """Images per step."""
    parameters: int = 10_000_000
    """P, float32, of the model for steps with the optimizer only."""
    tensors: int = 200
    """L, of equal size."""


TOY = Config(steps=8, training_steps=2, batch=2, parameters=1000, tensors=10)


def measure(config: Config, samples: Samples) -> None:
    """Starts two processes, of which the first measures."""
    with tempfile.TemporaryDirectory() as folder:
        together(_work, 2, config, (Path(folder) / "rendezvous").as_uri(), samples)


def _work(rank: int, config: Config, meeting: str, samples: Samples) -> None:
    """Measures all variants repeatedly, first with whole steps, then with optimizers only."""
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=QUIETLY)
    _measure_repeatedly("ResNet-20", _training(config), config.training_steps, samples)
    for optimizer in OPTIMIZERS:
        for fused in (False, True):
            title = f"{optimizer}, fused" if fused else optimizer
            steps = _optimizer_alone(optimizer, fused, config)
            _measure_repeatedly(title, steps, config.steps // SOMETIMES, samples)
    dist.destroy_process_group()


def merge(_: Config, samples: Sequence[Sample]) -> Results:
    """Kind of step -> variant -> seconds of each repetition."""
    titles = dict.fromkeys(sample["step"] for sample in samples)
    return {
        "seconds": {
            title: columns([sample["seconds"] for sample in samples if sample["step"] == title])
            for title in titles
        }
    }


class TrainingStep:
    """A whole local step of ResNet-20: forward, backward, optimizer."""

    def __init__(self, attached: Attached | None, batch: int) -> None:
        torch.manual_seed(0)
        self._model = resnet20((3, 32, 32), 10)
        self._optimizer = _make(self._model, "SGD", fused=False)
        self._images, self._labels = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))
        _attach(self._model, self._optimizer, attached)

    def __call__(self) -> int:
        """Makes the step."""
        self._optimizer.zero_grad()
        loss: Tensor = cross_entropy(self._model(self._images), self._labels)
        loss.backward()
        return _take(self._optimizer, 1)


def _training(config: Config) -> dict[str, Step]:
    variants = ("bare", "norms and pull")
    return {name: TrainingStep(VARIANTS[name], config.batch) for name in variants}


def _optimizer_alone(optimizer: str, fused: bool, config: Config) -> dict[str, Step]:
    steps: dict[str, Step] = {}
    for name, attached in VARIANTS.items():
        model = ManyTensors(config.parameters, config.tensors)
        made = _make(model, optimizer, fused=fused)
        _attach(model, made, attached)
        steps[name] = partial(_take, made, SOMETIMES)
    return steps


def _make(model: nn.Module, name: str, *, fused: bool) -> Optimizer:
    kind, options, _ = OPTIMIZERS[name]
    return kind(model.parameters(), lr=1e-6, fused=fused or None, **options)


def _take(optimizer: Optimizer, steps: int) -> int:
    for _ in range(steps):
        optimizer.step()
    return steps


def _attach(model: nn.Module, optimizer: Optimizer, attached: Attached | None) -> None:
    if attached is not None:
        strategy, every = attached
        grawa.Averager(model, optimizer, strategy, sync_every=NEVER, hook_every=every).attach()


def _measure_repeatedly(
    title: str, steps: Mapping[str, Step], turns: int, samples: Samples
) -> None:
    if dist.get_rank() == 0:
        _measure(title, steps, turns, samples)
    dist.barrier()


def _measure(title: str, steps: Mapping[str, Step], turns: int, samples: Samples) -> None:
    for step in steps.values():
        step()  # so that lazily created state exists
    order = random.Random(0)
    for turn in track(range(turns), f"{title:13}"):
        seconds = {}
        for name in order.sample(list(steps), len(steps)):
            start = time.process_time()
            made = steps[name]()
            seconds[name] = (time.process_time() - start) / made
        samples.add(step=title, turn=turn, seconds={name: seconds[name] for name in steps})


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
        for name in ("norms and pull", "every fourth step"):
            if name in variants:
                ratio = ratios(variants[name], variants["bare"])
                print(verdict(f"{title}, {name}", ratio.median, target))


BENCHMARK = Benchmark(
    name="local_step",
    text=__doc__,
    takes="a minute of one core",
    config=Config(),
    toy=TOY,
    measure=measure,
    merge=merge,
    show=tables,
)
main = BENCHMARK.run

if __name__ == "__main__":
    main()
