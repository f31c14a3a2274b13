"""Problems with known minimisers, and their expected distances by theory, for `theory.py`."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from grawa.lab.tasks import Logistic, Quadratic, Task
from grawa.lab.tasks.task import Data
from grawa.seeding import generator

WORKERS = 4
BIASED = WORKERS - 1
"""The worker whose gradients are biased in the condition with a biased worker."""

Steps = Literal["constant", "decaying"]
Kind = Literal["iid", "biased worker", "non-iid"]

DIMENSIONS = 10

TASKS: dict[str, Task] = {
    "quadratic": Quadratic(dimensions=DIMENSIONS, noise=1.0),
    "logistic": Logistic(dimensions=DIMENSIONS, ridge=0.1),
}

LRS = {"quadratic": 0.4, "logistic": 0.8}
"""Initial learning rate if it decays; constant rates are a quarter of it."""

FALL = 64.0
"""Steps after which a decaying learning rate has halved: lr / (1 + t / FALL)."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A convex task with each worker's samples and its minimiser.

    Args:
        task: the task, which defines the loss.
        workers: (inputs, targets) of each worker.
        minimiser: of the mean loss over all samples, (P,).
        noise: whether batches are drawn at random; otherwise each has all of the worker's samples.
    """

    task: Task
    workers: list[tuple[Tensor, Tensor]]
    minimiser: Tensor
    noise: bool

    @classmethod
    def of(cls, name: str, kind: Kind, seed: int) -> "Problem":
        """The problem with this name; each seed has its own data."""
        task = TASKS[name]
        whole = Data(*(t.double() if t.is_floating_point() else t for t in task.data(seed)))
        inputs, targets = whole.train_inputs, whole.train_targets
        workers = [(inputs, targets)] * WORKERS
        if kind == "biased worker":
            workers[BIASED] = _biased(name, inputs, targets)
        elif kind == "non-iid":
            order = (inputs[:, 0] if name == "quadratic" else targets).argsort(stable=True)
            workers = [(inputs[part], targets[part]) for part in order.tensor_split(WORKERS)]
        if isinstance(task, Logistic):
            minimiser = task.minimiser(whole).flatten()
        else:
            minimiser = torch.zeros(DIMENSIONS, dtype=torch.float64)
        noise = kind != "non-iid"  # so that only the bias of the fixed point remains
        return cls(task=task, workers=workers, minimiser=minimiser, noise=noise)

    def batch(self, worker: int, size: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """A batch of a worker's samples, drawn with replacement; or all of them."""
        inputs, targets = self.workers[worker]
        if not self.noise:
            return inputs, targets
        picked = torch.randint(len(inputs), (size,), generator=random)
        return inputs[picked], targets[picked]

    def square_distance(self, leaves: list[Tensor]) -> float:
        """Squared distance of a model's parameters from the minimiser."""
        return float((parameters_to_vector(leaves) - self.minimiser).square().sum())


def _biased(name: str, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Biases a worker: its gradients are off by a unit vector, or all its labels are wrong."""
    if name == "quadratic":
        return inputs + DIMENSIONS**-0.5, targets
    return inputs, 1 - targets


def models(problem: Problem, seed: int) -> list[nn.Module]:
    """Equal models in float64, one for each worker."""
    return [problem.task.model(seed).double() for _ in range(WORKERS)]


def lr(name: str, steps: Steps, step: int) -> float:
    """The learning rate of a step, counted from 0."""
    return LRS[name] / 4.0 if steps == "constant" else LRS[name] / (1.0 + step / FALL)


def expected(kind: Kind, steps: Steps, count: int, batch_size: int, seed: int) -> list[float]:
    """The expected squared distance on the quadratic after each step, for averaged gradients.

        m <- (1 - lr c) m - lr b/N,   v <- (1 - lr c)^2 v + lr^2 / (N batch_size),   sum of m^2 + v

    per dimension with curvature c; b is the biased worker's. Since all workers have the same
    curvature, averaged parameters move by averaged gradients, so it is true of LocalSGD too.
    """
    curvature = torch.linspace(1.0, 0.0, DIMENSIONS + 1, dtype=torch.float64)[:-1]
    start = torch.randn(DIMENSIONS, generator=generator(seed, "model"))
    mean, variance = start.double(), torch.zeros(DIMENSIONS, dtype=torch.float64)
    bias = DIMENSIONS**-0.5 / WORKERS if kind == "biased worker" else 0.0
    noise = 1.0 / (WORKERS * batch_size)
    found = []
    for step in range(count):
        rate = lr("quadratic", steps, step)
        mean = (1.0 - rate * curvature) * mean - rate * bias
        variance = (1.0 - rate * curvature).square() * variance + rate**2 * noise
        found.append(float((mean.square() + variance).sum()))
    return found
