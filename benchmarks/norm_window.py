"""Measures how much workers' weights change if only the norms of a round's last steps are noted.

Four workers train with LGRAWA, and the norms of all their steps are kept. From these, weights are
computed with all steps of a round, and with its last steps only.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from rich.progress import track
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

import grawa
from command import Benchmark, Results
from common import show, verdict
from grawa.lab.tasks.digits import Digits
from grawa.lab.tasks.glyphs import Glyphs
from grawa.lab.tasks.task import Task
from grawa.lab.tasks.text import Text
from grawa.math.weights import inverse_norm
from grawa.scores.protocol import Observed
from grawa.seeding import generator
from processes import one_thread
from samples import Sample, Samples

WORKERS = 4

TARGET = 0.01
"""Most change of a weight, on average, with the window that is used."""

TASKS: Mapping[str, tuple[Callable[[], Task], Callable[..., Optimizer], int]] = {
    "digits": (Digits, partial(SGD, lr=0.1, momentum=0.9), 16),
    "digits-cnn": (partial(Digits, architecture="cnn"), partial(SGD, lr=0.05, momentum=0.9), 8),
    "glyphs": (Glyphs, partial(SGD, lr=0.05, momentum=0.9), 16),
    "text, small": (
        partial(Text, architecture="transformer_small", train_bytes=300_000, test_bytes=2_000),
        partial(AdamW, lr=1e-3),
        4,
    ),
}
"""Makes the task and the optimizer; samples in a batch."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options."""

    tasks: tuple[str, ...] = tuple(TASKS)
    sync_every: tuple[int, ...] = (32, 128)
    windows: tuple[int, ...] = (8, 16, 20, 25, 29)
    """How many last steps of a round are noted."""
    rounds: int = 8
    seeds: int = 2


TOY = Config(tasks=("digits",), sync_every=(4,), windows=(2, 25), rounds=2, seeds=1)


class _AllNorms:
    """A score that keeps the norms of all steps, and reports those of the last one."""

    is_norm: ClassVar[bool] = True
    needs_gradients: ClassVar[bool] = True
    needs_losses: ClassVar[bool] = False
    needs_center: ClassVar[bool] = False
    norm_steps: ClassVar[int | None] = None

    def __init__(self) -> None:
        self.rounds: list[Tensor] = []
        self._steps: list[Tensor] = []

    def tracker(
        self, groups: Sequence[int], num_hosted: int, num_fragments: int = 1
    ) -> "_AllNorms":
        """Itself: it is used once."""
        return self

    def note_gradients(self, norms: Tensor, steps: int = 1) -> None:
        """Keeps them."""
        self._last = norms.double().clone()
        self._steps.append(self._last)

    def note_losses(self, losses: Tensor) -> None:
        """Ignores them."""

    def read(self, workers: Observed, fragment: int = 0, anew: bool = True) -> Tensor:
        """The last norms."""
        return self._last

    def restart(self, fragment: int = 0) -> None:
        """Ends a round."""
        self.rounds.append(torch.stack(self._steps))
        self._steps = []

    def state_dict(self) -> dict[str, Any]:
        """Nothing: it is not saved."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""


def measure(config: Config, samples: Samples) -> None:
    """Trains on each task with each interval, and adds the changes of all weights."""
    runs = [(t, e, s) for t in config.tasks for e in config.sync_every for s in range(config.seeds)]
    with one_thread():
        for name, every, seed in track(runs, "norm_window"):
            for index, norms in enumerate(_norms(name, every, seed, config.rounds)):
                for level in ("model", "tensor"):
                    changes = {
                        str(window): _change(norms, window, level).tolist()
                        for window in config.windows
                    }
                    samples.add(
                        task=name, every=every, seed=seed, round=index, level=level, changes=changes
                    )


def _norms(name: str, every: int, seed: int, rounds: int) -> list[Tensor]:
    """The norms of all steps of each round, (steps, N, L)."""
    make, optimizer, batch = TASKS[name]
    task, score = make(), _AllNorms()
    data, models = task.data(seed), [task.model(seed) for _ in range(WORKERS)]
    optimizers = [optimizer(model.parameters()) for model in models]
    randoms = [generator(seed, f"batches-{k}") for k in range(WORKERS)]
    with grawa.Averager(models, optimizers, grawa.LGRAWA(score=score), sync_every=every):
        for _ in range(every * rounds):
            for model, made, random in zip(models, optimizers, randoms, strict=True):
                picked = torch.randint(len(data.train_inputs), (batch,), generator=random)
                made.zero_grad()
                task.loss(model, data.train_inputs[picked], data.train_targets[picked]).backward()
            for made in optimizers:
                made.step()
    return score.rounds


def _change(norms: Tensor, window: int, level: str) -> Tensor:
    """By which part each weight differs from the one that all steps give."""
    return (_weights(norms, window, level) / _weights(norms, len(norms), level) - 1).abs().flatten()


def _weights(norms: Tensor, window: int, level: str) -> Tensor:
    """(N, G), from norms of the last `window` steps, averaged as `grawa.GradientNorms` does."""
    last = norms[-window:]
    ages = torch.arange(len(last) - 1, -1, -1, dtype=torch.float64)
    factors = grawa.GradientNorms().decay ** ages
    mean = (factors[:, None, None] * last).sum(dim=0) / factors.sum()
    scores = mean.sum(dim=1, keepdim=True) if level == "model" else mean
    return inverse_norm(scores, 1.0, torch.ones(len(scores), dtype=torch.bool))


def merge(config: Config, samples: Sequence[Sample]) -> Results:
    """Task, interval and level -> window -> mean, median and 99% quantile of the changes."""
    found: dict[str, dict[str, list[float]]] = {}
    for task in config.tasks:
        for every in config.sync_every:
            for level in ("model", "tensor"):
                own = [
                    s["changes"]
                    for s in samples
                    if (s["task"], s["every"], s["level"]) == (task, every, level)
                ]
                if own:
                    name = f"{task}, every {every}, by {level}"
                    found[name] = {
                        str(w): _summary([c for s in own for c in s[str(w)]])
                        for w in config.windows
                    }
    return {"changes": found}


def _summary(changes: Sequence[float]) -> list[float]:
    every = torch.tensor(changes, dtype=torch.float64)
    return [float(every.mean()), float(every.median()), float(every.quantile(0.99))]


def tables(config: Config, results: Results) -> None:
    """Prints the changes, and whether the window in use meets its target."""
    show(
        "change of weights, %: mean / 99%",
        ["task, rounds and weights", *(f"{w} steps" for w in config.windows)],
        [
            [name, *(f"{100 * mean:.2f} / {100 * most:.1f}" for mean, _, most in own.values())]
            for name, own in results["changes"].items()
        ],
    )
    used = str(grawa.GradientNorms().norm_steps)
    for name, own in results["changes"].items():
        if used in own:
            print(verdict(f"{name}, {used} steps, mean change", own[used][0], TARGET))


BENCHMARK = Benchmark(
    name="norm_window",
    text=__doc__,
    takes="two minutes of one core",
    config=Config(),
    toy=TOY,
    measure=measure,
    merge=merge,
    show=tables,
)
main = BENCHMARK.run

if __name__ == "__main__":
    main()
