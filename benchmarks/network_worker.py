"""One host of `network.py`: trains by one method, and counts samples, seconds and bytes."""

import json
import os
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.progress import track
from torch import nn

from grawa.lab.files import write_text
from grawa.lab.planning.measure import Subject, measure
from grawa.lab.planning.predict import predict
from hosts import HOSTS, join
from network_methods import DDP, METHODS, PLANNED, TIMEOUT, Trainee, alone

WIDTH = 1024
WARM_UP = 1
"""Cycles before: what rounds keep in memory is new in the first."""

EVERY_STEP = 4
"""Steps that are timed of a method that talks in each, over a slow link."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to measure, and where to leave the results."""

    runs: tuple[str, ...]
    """Methods, one after the other."""
    port: int
    sync_every: int
    cycles: int
    batch: int
    pause: float
    rate: str
    slow: bool
    output: str


def model() -> nn.Module:
    """Five million parameters in ten tensors."""
    layers: list[nn.Module] = []
    for _ in range(5):
        layers += [nn.Linear(WIDTH, WIDTH), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def work(task: Task, rank: int) -> None:
    """Measures, together with the other hosts; rank 0 writes down what all found."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    os.environ.setdefault("RUST_LOG", "error")
    join(task.port, rank, TIMEOUT)
    found: list[Any] = [None] * HOSTS
    dist.all_gather_object(found, {"planned": _planned(task), "runs": _measured(task)})
    if rank == 0:
        write_text(Path(task.output), json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def _planned(task: Task) -> dict[str, Any]:
    """What `grawa plan` would measure and foresee here."""
    trainee = alone(model(), task.sync_every)
    subject = Subject(
        model=trainee.model,
        optimizer=trainee.optimizer,
        step=partial(_train, trainee, torch.randn(task.batch, WIDTH), 1, task.pause),
        samples=task.batch,
    )
    strategies = {name: plan.strategy for name, plan in PLANNED.items()}
    measured = measure(subject, strategies, None, lambda _: nullcontext())
    limit = HOSTS * task.batch / measured.step_seconds
    shares = {
        method.name: predict(
            measured, method, PLANNED[method.name].variant, task.sync_every
        ).samples_per_second
        / limit
        for method in measured.methods
    }
    link = measured.network.link
    return {
        "shares": shares,
        "step_seconds": measured.step_seconds,
        "bandwidth": link.bandwidth,
        "latency": link.latency,
    }


def _measured(task: Task) -> list[dict[str, Any]]:
    """What each run took, with steps without communication before and after it."""
    inputs = torch.randn(task.batch, WIDTH)
    plain = alone(model(), task.sync_every)
    _train(plain, inputs, task.sync_every, task.pause)
    before = _paced(plain, inputs, task.sync_every, task.pause)
    found = []
    for method in track(task.runs, f"{task.rate:8}", disable=dist.get_rank() > 0):
        try:
            run = _measure(task, METHODS[method](model(), task.sync_every), method, inputs)
        except TypeError as error:  # as PyTorch refuses some hooks on the CPU, on all hosts alike
            run = {"failed": f"{type(error).__name__}: {error}"}
        after = _paced(plain, inputs, task.sync_every, task.pause)
        found.append({**run, "method": method, "plain_step_seconds": (before + after) / 2})
        before = after
    return found


def _measure(task: Task, trainee: Trainee, method: str, inputs: torch.Tensor) -> dict[str, Any]:
    if method.startswith(DDP) and task.slow:
        warm_up, steps = 1, EVERY_STEP
    else:
        warm_up, steps = WARM_UP * task.sync_every, task.cycles * task.sync_every
    _train(trainee, inputs, warm_up, task.pause)
    trainee.rounds.clear()
    sent, start = _sent(), time.perf_counter()
    _train(trainee, inputs, steps, task.pause)
    seconds = time.perf_counter() - start
    bytes_sent, reports = _sent() - sent, list(trainee.rounds)
    trainee.close()  # no round may be under way when the limit is measured again
    rounds = max(1, len(reports))
    return {
        "rounds": len(reports),
        "samples": task.batch * steps,
        "steps": steps,
        "seconds": seconds,
        "wire_bytes": bytes_sent,
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


def _sent() -> int:
    """Bytes that have left this host, headers and all, by the interface's own count."""
    text = Path("/sys/class/net/eth0/statistics/tx_bytes").read_text(encoding="utf-8")
    return int(text)


if __name__ == "__main__":
    work(Task(**json.loads(sys.argv[1])), int(sys.argv[2]))
