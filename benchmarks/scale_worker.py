"""One measurement of `scale.py`, in a separate process."""

import time
from dataclasses import dataclass

import torch
from torch import nn

import grawa
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.tasks import Data, Digits, Task
from grawa.lab.train.run import Run
from grawa.seeding import seeded
from memory import measure

REPEATS = 16
"""Copies of each image, so that 256 workers have 75 images each."""

BATCH = 16


@dataclass(frozen=True, kw_only=True)
class ManyDigits(Digits):
    """Digits for many workers, with several copies of each training image."""

    def data(self, seed: int) -> Data:
        """See `Task.data`."""
        data = super().data(seed)
        inputs = data.train_inputs.repeat(REPEATS, 1)
        return data._replace(train_inputs=inputs, train_targets=data.train_targets.repeat(REPEATS))


@dataclass(frozen=True, kw_only=True)
class Convolved(ManyDigits):
    """Digits for many workers, with a convolutional network.

    Args:
        widths: channels of each 3 x 3 convolution.
        pooled: the convolutions after which the resolution is halved.
    """

    widths: tuple[int, ...]
    pooled: tuple[int, ...]

    def model(self, seed: int) -> nn.Module:
        """Convolutions with ReLUs, and a linear layer."""
        layers: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8))]
        width_in, side = 1, 8
        with seeded(seed, "model"):
            for i, width in enumerate(self.widths):
                layers += [nn.Conv2d(width_in, width, 3, padding=1), nn.ReLU()]
                if i in self.pooled:
                    layers.append(nn.MaxPool2d(2))
                    side //= 2
                width_in = width
            return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width_in * side**2, 10))


TASKS: dict[str, Task] = {
    "MLP": ManyDigits(),
    "small CNN": Convolved(widths=(16, 32), pooled=(0, 1)),
    "CNN": Convolved(widths=(32, 64), pooled=(1,)),
}
"""Models with 4,810, 6,090 and 29,066 parameters."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to measure.

    Attributes:
        model: a name in `TASKS`.
        stacked: whether the workers make their steps in one batched pass.
        workers: N, all in one process.
        worker_steps: least number of steps, summed over the workers, that are timed.
        sync_every: local steps between rounds.
    """

    model: str
    stacked: bool
    workers: int
    worker_steps: int
    sync_every: int


@dataclass(frozen=True, kw_only=True)
class Found:
    """The measurements.

    Attributes:
        seconds: processor time of a worker-step: that of a local step, including rounds, divided by
            N. It hardly depends on other load.
        wall_seconds: the same in wall-clock time.
        rest: additional bytes that the workers keep.
        peak: additional bytes at the peak.
    """

    seconds: float
    wall_seconds: float
    rest: int
    peak: int


def work(job: Job) -> Found:
    """Trains for some rounds, and measures first memory, then time."""
    task = TASKS[job.model]
    usual = TrainConfig(
        task="digits",
        workers=job.workers,
        batch_size=BATCH,
        sync_every=job.sync_every,
        steps=10**6,
        stack_workers="on" if job.stacked else "off",
    )

    def build() -> Run:
        run = Run(task, lambda *_: grawa.LGRAWA(), usual.settings(), torch.device("cpu"), None)
        run.engine.local_steps_begin()
        return run

    run, memory = measure(build, lambda _: None, lambda run: _train(run, job.sync_every))
    rounds = max(1, -(-job.worker_steps // (job.workers * job.sync_every)))
    began, processor_began = time.perf_counter(), time.process_time()
    _train(run, rounds * job.sync_every)
    processor, wall = time.process_time() - processor_began, time.perf_counter() - began
    made = rounds * job.sync_every * job.workers
    return Found(
        seconds=processor / made,
        wall_seconds=wall / made,
        rest=memory.rest,
        peak=memory.peak,
    )


def _train(run: Run, steps: int) -> None:
    for _ in range(steps):
        run.step()
    for _ in run.news():  # so that reports don't accumulate
        pass


def tensor_bytes(model: str) -> int:
    """Bytes of a worker's parameters, gradients and momentum."""
    return 3 * sum(p.nbytes for p in TASKS[model].model(0).parameters())
