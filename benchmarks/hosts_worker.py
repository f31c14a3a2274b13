"""One process of `hosts.py`: times the rounds of each method, and counts a host's bytes."""

import os
import random
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch.distributed as dist
from rich.progress import track
from torch import nn
from torch.distributed.algorithms.model_averaging.hierarchical_model_averager import (
    HierarchicalModelAverager,
)
from torch.optim import Optimizer

import grawa
from grawa.lab.chaos.hosts import address
from grawa.lab.planning.links import find_hosts
from grawa.lab.planning.measure import Subject, measure
from grawa.lab.planning.predict import Variant, predict
from methods import (
    BASELINE,
    QUIETLY,
    Build,
    Method,
    bare_all_reduce,
    is_installed,
    ours,
    pytorch,
    sgd,
)
from models import ManyTensors
from namespaces import bytes_sent, drain, join
from samples import Samples
from torchft_peers import torchft_local_sgd

NEVER = 10**9


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to measure."""

    arrangement: str
    """Hosts x processes on each."""
    rate: str
    turns: int
    parameters: int
    tensors: int
    processes: int
    """On each host."""
    hosts: int
    hiding: float
    """Seconds between local steps while a round runs in the background, longer than the round."""


def hierarchical(model: nn.Module, optimizer: Optimizer, *, each: int) -> Method:
    """PyTorch's averager in two levels: the processes of a host, then all, as one round."""
    averager = HierarchicalModelAverager(
        OrderedDict([(1, each), (2, dist.get_world_size())]), warmup_steps=0
    )

    def run() -> None:
        for _ in range(2):
            averager.average_parameters(model.parameters())

    return Method(local_step=optimizer.step, run=run)


def torchft(model: nn.Module, optimizer: Optimizer, *, host: int) -> Method:
    """`torchft.local_sgd.LocalSGD`; each process is a replica group."""
    local_sgd, close = torchft_local_sgd(
        model,
        optimizer,
        sync_every=NEVER,
        host=address(host),
        first_host=address(0),
        timeout=QUIETLY,
    )
    return Method(local_step=optimizer.step, run=local_sgd.sync, close=close)


OURS: Mapping[str, grawa.Strategy] = {
    "LocalSGD": grawa.LocalSGD(),
    "MGRAWA": grawa.MGRAWA(),
    "LGRAWA": grawa.LGRAWA(),
    "LSGD": grawa.LSGD(),
    "DiLoCo": grawa.DiLoCo(),
}
"""Our methods; each is measured in float32, in int8, and with overlap."""

VARIANTS: Mapping[str, dict[str, Any]] = {
    "": {},
    ", int8": {"comm_dtype": "int8"},
    ", overlap": {"sync_every": 2, "overlap_steps": 1},
}


def methods(task: Task, rank: int) -> dict[str, Build]:
    """All methods, in the order of the table."""
    found: dict[str, Build] = {
        BASELINE: bare_all_reduce,
        "PyTorch average_parameters": pytorch,
    }
    if task.processes > 1:
        found["PyTorch hierarchical"] = partial(hierarchical, each=task.processes)
    found["torchft LocalSGD"] = partial(torchft, host=rank // task.processes)
    for suffix, options in VARIANTS.items():
        for name, strategy in OURS.items():
            found[name + suffix] = partial(ours, strategy=strategy, hiding=task.hiding, **options)
    return {name: build for name, build in found.items() if is_installed(name)}


def planned(task: Task) -> dict[str, float]:
    """Seconds of our blocking rounds as `grawa plan` predicts them between these processes."""
    model = ManyTensors(task.parameters, task.tensors, seed=0)
    optimizer = sgd(model)
    subject = Subject(model=model, optimizer=optimizer, step=optimizer.step, samples=1)
    measured = measure(subject, OURS, find_hosts(), lambda _: nullcontext())
    return {
        method.name + suffix: predict(measured, method, Variant(comm_dtype=dtype), 1).round_seconds
        for suffix, dtype in (("", "same"), (", int8", "int8"))
        for method in measured.methods
    }


def work(rank: int, task: Task, samples: Samples) -> None:
    """Measures, together with the other processes; rank 0 writes the results of all."""
    os.environ.setdefault("RUST_LOG", "error")
    join(rank, QUIETLY, task.hosts * task.processes)
    predicted = planned(task)
    built = {}
    for name, build in methods(task, rank).items():
        tensors = 1 if name == BASELINE else task.tensors
        model = ManyTensors(task.parameters, tensors, seed=rank)
        built[name] = build(model, sgd(model))
    order = random.Random(0)
    title = f"{task.arrangement}, {task.rate}"
    for turn in track(range(task.turns + 1), f"{title:14}", disable=rank > 0):
        for name in order.sample(list(built), len(built)):
            seconds, sent = _round(built[name], task)
            if turn and rank == 0:  # the first round allocates, and is not compressed
                samples.add(
                    arrangement=task.arrangement,
                    rate=task.rate,
                    method=name,
                    turn=turn,
                    seconds=seconds,
                    models_sent=sent,
                )
    if rank == 0:
        for name, seconds in predicted.items():
            samples.add(arrangement=task.arrangement, rate=task.rate, method=name, planned=seconds)
    for method in built.values():
        method.close()
    dist.barrier()
    dist.destroy_process_group()


def _round(method: Method, task: Task) -> tuple[float, float]:
    """Seconds of a round, of the slowest process; models that a host sent, on average."""
    drain()
    before = bytes_sent()
    method.local_step()
    dist.barrier()
    seconds = method.timed()
    dist.barrier()
    sent = bytes_sent() - before  # the same for all processes of a host
    everyone: list[tuple[float, float]] = [(0.0, 0.0)] * dist.get_world_size()
    dist.all_gather_object(everyone, (seconds, sent / (4 * task.parameters)))
    return max(s for s, _ in everyone), sum(n for _, n in everyone) / len(everyone)
