"""The methods whose rounds are measured: ours, and similar ones of other libraries."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.model_averaging.utils import average_parameters
from torch.optim import SGD, Optimizer

import grawa
from grawa.lab.experiments.environment import version
from grawa.strategies.protocol import Strategy
from torchft_peers import torchft_local_sgd

NEVER = 10**9
"""Local steps between rounds, if rounds are started by a call."""

QUIETLY = timedelta(minutes=5)

HIDING_SECONDS = 0.4
"""Pause between two local steps while a round runs in the background, longer than the round."""


def _nothing() -> None:
    """A placeholder for methods that need no preparation, or no closing."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A round of a method, on this process."""

    local_step: Callable[[], object]
    """Called before a round; not timed."""
    run: Callable[[], object]
    """Runs the averaging only."""
    seconds: Callable[[], float] | None = None
    """Seconds of the last run, if that is only a part of the call; `None` for the whole call."""
    bytes_sent: Callable[[], int] | None = None
    """Bytes sent by this process so far; `None` to use the closed form of an all-reduce."""
    close: Callable[[], object] = _nothing
    rounds: int = 1
    """Number of rounds in a run."""

    def timed(self) -> float:
        """Runs it, and returns the seconds that count."""
        start = time.perf_counter()
        self.run()
        wall = time.perf_counter() - start
        return wall if self.seconds is None else self.seconds()


Build = Callable[[nn.Module, Optimizer], Method]


def bare_all_reduce(model: nn.Module, optimizer: Optimizer) -> Method:
    """The baseline: an all-reduce of a model that is one tensor."""
    (flat,) = (parameter.detach() for parameter in model.parameters())
    return Method(local_step=optimizer.step, run=lambda: dist.all_reduce(flat))


def ours(
    model: nn.Module,
    optimizer: Optimizer,
    strategy: Strategy,
    *,
    fragments: int = 1,
    sync_every: int = NEVER,
    hiding: float | None = None,
    **options: Any,
) -> Method:
    """A round with the defaults: health checks, scores, guard, exchange, pull, report.

    Args:
        model: the model.
        optimizer: its optimizer.
        strategy: the method.
        fragments: parts of the model, which have a round each.
        sync_every: local steps between rounds, if they run in the background.
        hiding: seconds between two local steps meanwhile; `HIDING_SECONDS` by default.
        options: other options of `Averager`.
    """
    reports: list[grawa.RoundReport] = []
    averager = grawa.Averager(
        model,
        optimizer,
        strategy,
        sync_every=sync_every,
        fragments=fragments,
        timeout=QUIETLY,
        on_round=[reports.append],
        **options,
    )
    averager.attach()
    loss = torch.tensor(1.0 + 0.01 * dist.get_rank())  # so similar that the guard accepts all

    def local_step() -> None:
        averager.record_loss(loss)
        optimizer.step()

    def step_while_a_round_goes_on() -> None:
        time.sleep(HIDING_SECONDS if hiding is None else hiding)
        local_step()

    def blocked() -> float:
        return statistics.mean(report.exposed_seconds for report in reports[-fragments:])

    overlaps = sync_every < NEVER
    if overlaps:
        local_step()  # the next one begins a round, and the one in a run ends it
    return Method(
        local_step=local_step,
        run=step_while_a_round_goes_on if overlaps else averager.synchronize,
        seconds=blocked if overlaps or fragments > 1 else None,
        bytes_sent=lambda: averager.bytes_sent,
        close=averager.detach,
        rounds=fragments,
    )


def pytorch(model: nn.Module, optimizer: Optimizer) -> Method:
    """What `PeriodicModelAverager` and `PostLocalSGDOptimizer` call at a round."""
    everyone = dist.group.WORLD
    assert everyone is not None
    return Method(
        local_step=optimizer.step,
        run=lambda: average_parameters(model.parameters(), everyone),
    )


def accelerate(model: nn.Module, optimizer: Optimizer) -> Method:
    """`accelerate.local_sgd.LocalSGD`, whose `step` does nothing but count and average."""
    from accelerate import Accelerator
    from accelerate.local_sgd import LocalSGD

    local_sgd = LocalSGD(Accelerator(cpu=True), model, local_sgd_steps=1)
    return Method(local_step=optimizer.step, run=local_sgd.step)


def torchft(model: nn.Module, optimizer: Optimizer) -> Method:
    """`torchft.local_sgd.LocalSGD`; each process is a replica group, rank 0 runs the lighthouse."""
    local_sgd, close = torchft_local_sgd(
        model,
        optimizer,
        sync_every=NEVER,
        host="localhost",
        first_host="localhost",
        timeout=QUIETLY,
    )
    return Method(local_step=optimizer.step, run=local_sgd.sync, close=close)


BASELINE = "bare all_reduce"
BROKEN_DOWN = "grawa MGRAWA"

_lgrawa = partial(ours, strategy=grawa.LGRAWA())

METHODS: Mapping[str, Build] = {
    BASELINE: bare_all_reduce,
    "grawa LocalSGD": partial(ours, strategy=grawa.LocalSGD()),
    "grawa MGRAWA": partial(ours, strategy=grawa.MGRAWA()),
    "grawa LGRAWA": partial(ours, strategy=grawa.LGRAWA()),
    "grawa EASGD": partial(ours, strategy=grawa.EASGD()),
    "grawa LSGD": partial(ours, strategy=grawa.LSGD()),
    "grawa DiLoCo": partial(ours, strategy=grawa.DiLoCo()),
    "MGRAWA, by sockets": partial(ours, strategy=grawa.MGRAWA(), shared_memory=False),
    "LGRAWA, by sockets": partial(_lgrawa, shared_memory=False),
    "LGRAWA, one of 4 fragments": partial(_lgrawa, fragments=4),
    "LGRAWA, bf16": partial(_lgrawa, comm_dtype="bf16"),
    "LGRAWA, int8": partial(_lgrawa, comm_dtype="int8"),
    "LGRAWA, overlap, blocked": partial(_lgrawa, sync_every=2, overlap_steps=1),
    "PyTorch average_parameters": pytorch,
    "Accelerate LocalSGD": accelerate,
    "torchft LocalSGD": torchft,
}

_NEEDS = {"Accelerate LocalSGD": "accelerate", "torchft LocalSGD": "torchft"}


def is_installed(method: str) -> bool:
    """Whether a method's package is installed."""
    return method not in _NEEDS or version(_NEEDS[method]) is not None


def sgd(model: nn.Module) -> Optimizer:
    """The optimizer of the paper's experiments, with steps too small to diverge."""
    return SGD(model.parameters(), lr=1e-6, momentum=0.9, nesterov=True, weight_decay=1e-4)
