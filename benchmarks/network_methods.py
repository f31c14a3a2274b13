"""The methods that train over the slow network."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, Optimizer

import grawa
from grawa.lab.chaos.hosts import address
from grawa.lab.experiments.environment import version
from grawa.lab.planning.predict import Variant
from grawa.strategies.protocol import Strategy
from torchft_peers import torchft_local_sgd

TIMEOUT = timedelta(minutes=10)
OVERLAP = 7 / 8
"""The overlap as a fraction of the local steps between rounds."""


class Round(NamedTuple):
    """The duration of a round."""

    seconds: float
    """From when all workers had joined until its end."""
    exposed: float
    """Seconds for which it blocked training."""


class Plan(NamedTuple):
    """A method in the planner's terms."""

    strategy: Strategy
    variant: Variant


@dataclass(frozen=True, kw_only=True)
class Trainee:
    """A model that is trained with a method."""

    model: nn.Module
    optimizer: Optimizer
    after_step: Callable[[], object] = lambda: None
    """Called after the optimizer's step, for methods without a hook."""
    close: Callable[[], object] = lambda: None
    rounds: list[Round] = field(default_factory=list)


def sgd(model: nn.Module) -> Optimizer:
    """The optimizer of all methods: SGD with Nesterov momentum."""
    return SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True)


def alone(model: nn.Module, sync_every: int) -> Trainee:
    """Training without communication, the limit for all methods."""
    return Trainee(model=model, optimizer=sgd(model))


def ddp(model: nn.Module, sync_every: int, *, hook: Callable[..., Any] | None = None) -> Trainee:
    """PyTorch's data parallel, which overlaps communication with the backward pass."""
    wrapped = DistributedDataParallel(model)
    if hook is not None:
        wrapped.register_comm_hook(None, hook)
    return Trainee(model=wrapped, optimizer=sgd(wrapped))


def all_reduce(model: nn.Module, sync_every: int) -> Trainee:
    """A bare all-reduce of the parameters' bytes in place of a round, the baseline for rounds."""
    flat = torch.zeros(sum(parameter.numel() for parameter in model.parameters()))
    steps, rounds = count(1), list[Round]()

    def after_step() -> None:
        if next(steps) % sync_every == 0:
            began = time.perf_counter()
            dist.barrier()
            joined = time.perf_counter()
            dist.all_reduce(flat)
            ended = time.perf_counter()
            rounds.append(Round(ended - joined, ended - began))

    return Trainee(model=model, optimizer=sgd(model), after_step=after_step, rounds=rounds)


def post_local_sgd(model: nn.Module, sync_every: int) -> Trainee:
    """PyTorch's periodic averager, without warm-up."""
    averager = PeriodicModelAverager(period=sync_every, warmup_steps=0)
    parameters = list(model.parameters())
    averager.step = 1  # otherwise it averages at step 0, before any optimizer step
    return Trainee(
        model=model,
        optimizer=sgd(model),
        after_step=lambda: averager.average_parameters(iter(parameters)),
    )


def torchft(model: nn.Module, sync_every: int) -> Trainee:
    """`torchft.local_sgd.LocalSGD`; each host is a replica group, rank 0 runs the lighthouse."""
    optimizer = sgd(model)
    local_sgd, close = torchft_local_sgd(
        model,
        optimizer,
        sync_every=sync_every,
        host=address(dist.get_rank()),
        first_host=address(0),
        timeout=TIMEOUT,
    )
    local_sgd.__enter__()
    return Trainee(model=model, optimizer=optimizer, close=close)


def ours(
    model: nn.Module,
    sync_every: int,
    *,
    strategy: Strategy,
    fragments: int = 1,
    overlap: bool = False,
    **options: Any,
) -> Trainee:
    """An `Averager` with its defaults: health checks, scores, guard, exchange, pull, report."""
    rounds: list[Round] = []

    def note(report: grawa.RoundReport) -> None:
        seconds = report.round_seconds - report.wait_seconds
        rounds.append(Round(seconds, report.exposed_seconds))

    optimizer = sgd(model)
    averager = grawa.Averager(
        model,
        optimizer,
        strategy,
        sync_every=sync_every,
        fragments=fragments,
        overlap_steps=int(OVERLAP * (sync_every // fragments)) if overlap else 0,
        timeout=TIMEOUT,
        on_round=[note],
        **options,
    )
    averager.attach()
    loss = torch.tensor(1.0 + 0.01 * dist.get_rank())  # so similar that the guard accepts all

    def hook(*_: object) -> None:
        averager.record_loss(loss)

    optimizer.register_step_pre_hook(hook)
    return Trainee(model=model, optimizer=optimizer, close=averager.detach, rounds=rounds)


Build = Callable[[nn.Module, int], Trainee]

NO_COMMUNICATION = "no communication"
ALL_REDUCE = "bare all-reduce"
DDP = "DDP"

_LGRAWA = partial(ours, strategy=grawa.LGRAWA())

METHODS: Mapping[str, Build] = {
    NO_COMMUNICATION: alone,
    ALL_REDUCE: all_reduce,
    DDP: ddp,
    "DDP, bf16 hook": partial(ddp, hook=default_hooks.bf16_compress_hook),
    "DDP, fp16 hook": partial(ddp, hook=default_hooks.fp16_compress_hook),
    "PyTorch PostLocalSGD": post_local_sgd,
    "torchft LocalSGD": torchft,
    "LocalSGD": partial(ours, strategy=grawa.LocalSGD()),
    "EASGD": partial(ours, strategy=grawa.EASGD()),
    "LSGD": partial(ours, strategy=grawa.LSGD()),
    "DiLoCo": partial(ours, strategy=grawa.DiLoCo()),
    "MGRAWA": partial(ours, strategy=grawa.MGRAWA()),
    "LGRAWA": _LGRAWA,
    "LGRAWA, overlap": partial(_LGRAWA, overlap=True),
    "LGRAWA, 4 fragments": partial(_LGRAWA, fragments=4),
    "LGRAWA, 4 fragments, overlap": partial(_LGRAWA, fragments=4, overlap=True),
    "LGRAWA, bf16": partial(_LGRAWA, comm_dtype="bf16"),
    "LGRAWA, int8": partial(_LGRAWA, comm_dtype="int8"),
    "LGRAWA, int8, overlap": partial(_LGRAWA, comm_dtype="int8", overlap=True),
}


def is_installed(method: str) -> bool:
    """Whether a method's package is installed."""
    return not method.startswith("torchft") or version("torchft") is not None


PLANNED: Mapping[str, Plan] = {
    DDP: Plan(grawa.DataParallel(), Variant()),
    "LocalSGD": Plan(grawa.LocalSGD(), Variant()),
    "EASGD": Plan(grawa.EASGD(), Variant()),
    "LSGD": Plan(grawa.LSGD(), Variant()),
    "DiLoCo": Plan(grawa.DiLoCo(), Variant()),
    "MGRAWA": Plan(grawa.MGRAWA(), Variant()),
    "LGRAWA": Plan(grawa.LGRAWA(), Variant()),
    "LGRAWA, overlap": Plan(grawa.LGRAWA(), Variant(overlap=True)),
    "LGRAWA, bf16": Plan(grawa.LGRAWA(), Variant(comm_dtype="bf16")),
    "LGRAWA, int8": Plan(grawa.LGRAWA(), Variant(comm_dtype="int8")),
    "LGRAWA, int8, overlap": Plan(grawa.LGRAWA(), Variant(comm_dtype="int8", overlap=True)),
}
"""The methods that the planner can predict."""
