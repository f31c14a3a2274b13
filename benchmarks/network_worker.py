"""One host of `network.py`: trains with each method, and counts samples, seconds and bytes."""

import os
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from rich.progress import track
from torch import nn

from grawa.lab.planning.links import find_hosts
from grawa.lab.planning.measure import Subject, measure
from grawa.lab.planning.predict import predict
from namespaces import HOSTS, bytes_sent, join
from network_methods import DDP, METHODS, PLANNED, TIMEOUT, Trainee, alone, is_installed
from samples import Samples

WARM_UP = 1
"""Intervals before the measurement, since the first round allocates memory."""

EVERY_STEP = 4
"""Steps that are timed, over a slow link, for a method that communicates in every step."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to measure."""

    runs: tuple[str, ...]
    """Methods, one after another."""
    sync_every: int
    cycles: int
    batch: int
    width: int
    pause: float
    planning: float
    rate: str
    """The rate as it is shown."""
    slow: bool

    def model(self) -> nn.Module:
        """The model; five million parameters in ten tensors with the default width."""
        layers: list[nn.Module] = []
        for _ in range(5):
            layers += [nn.Linear(self.width, self.width), nn.ReLU()]
        return nn.Sequential(*layers[:-1])


def work(rank: int, task: Task, samples: Samples) -> None:
    """Measures, together with the other hosts; rank 0 writes the results of all."""
    torch.manual_seed(0)
    os.environ.setdefault("RUST_LOG", "error")
    join(rank, TIMEOUT)
    planned = _planned(task)
    if rank == 0:
        samples.add(rate=task.rate, planned=planned)
    _measured(task, samples)
    dist.barrier()
    dist.destroy_process_group()


def _planned(task: Task) -> dict[str, Any]:
    """The measurements and predictions of `grawa plan` on these hosts."""
    trainee = alone(task.model(), task.sync_every)
    subject = Subject(
        model=trainee.model,
        optimizer=trainee.optimizer,
        step=partial(_train, trainee, torch.randn(task.batch, task.width), 1, task.pause),
        samples=task.batch,
    )
    strategies = {name: plan.strategy for name, plan in PLANNED.items()}
    measured = measure(
        subject, strategies, find_hosts(), lambda _: nullcontext(), least_seconds=task.planning
    )
    shares = {
        method.name: predict(measured, method, PLANNED[method.name].variant, task.sync_every).speed
        for method in measured.methods
    }
    link = measured.network.link
    return {
        "shares": shares,
        "step_seconds": measured.step_seconds,
        "bandwidth": link.bandwidth,
        "latency": link.latency,
    }


def _measured(task: Task, samples: Samples) -> None:
    """Measures each run on each host, with steps without communication before and after it."""
    rank = dist.get_rank()
    inputs = torch.randn(task.batch, task.width)
    plain = alone(task.model(), task.sync_every)
    _train(plain, inputs, task.sync_every, task.pause)
    before = _paced(plain, inputs, task.sync_every, task.pause)
    for method in track(task.runs, f"{task.rate:8}", disable=rank > 0):
        run = _tried(task, method, inputs)
        after = _paced(plain, inputs, task.sync_every, task.pause)
        found: list[Any] = [None] * HOSTS
        dist.all_gather_object(found, {**run, "plain_step_seconds": (before + after) / 2})
        if rank == 0:
            samples.add(rate=task.rate, method=method, hosts=found)
        before = after


def _tried(task: Task, method: str, inputs: torch.Tensor) -> dict[str, Any]:
    if not is_installed(method):
        return {"failed": "not installed"}
    try:
        return _measure(task, METHODS[method](task.model(), task.sync_every), method, inputs)
    except TypeError as error:  # PyTorch refuses some hooks on the CPU, on all hosts
        return {"failed": f"{type(error).__name__}: {error}"}


def _measure(task: Task, trainee: Trainee, method: str, inputs: torch.Tensor) -> dict[str, Any]:
    if method.startswith(DDP) and task.slow:
        warm_up, steps = 1, EVERY_STEP
    else:
        warm_up, steps = WARM_UP * task.sync_every, task.cycles * task.sync_every
    _train(trainee, inputs, warm_up, task.pause)
    trainee.rounds.clear()
    sent, start = bytes_sent(), time.perf_counter()
    _train(trainee, inputs, steps, task.pause)
    seconds = time.perf_counter() - start
    wire_bytes, reports = bytes_sent() - sent, list(trainee.rounds)
    trainee.close()  # no round may run while the limit is measured again
    rounds = max(1, len(reports))
    return {
        "rounds": len(reports),
        "samples": task.batch * steps,
        "steps": steps,
        "seconds": seconds,
        "wire_bytes": wire_bytes,
        "round_seconds": sum(r.seconds for r in reports) / rounds,
        "exposed_seconds": sum(r.exposed for r in reports) / rounds,
    }


def _paced(plain: Trainee, inputs: torch.Tensor, steps: int, pause: float) -> float:
    """Seconds of a step without communication, while all hosts make such steps."""
    dist.barrier()
    start = time.perf_counter()
    _train(plain, inputs, steps, pause)
    seconds = (time.perf_counter() - start) / steps
    dist.barrier()
    return seconds


def _train(trainee: Trainee, inputs: torch.Tensor, steps: int, pause: float) -> None:
    for _ in range(steps):
        time.sleep(pause)
        trainee.optimizer.zero_grad()
        trainee.model(inputs).square().mean().backward()
        trainee.optimizer.step()
        trainee.after_step()
