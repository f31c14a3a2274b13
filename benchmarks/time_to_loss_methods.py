"""The methods of `time_to_loss.py`: ours, and data parallel and PostLocalSGD as torch has them."""

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import (
    PostLocalSGDState,
    post_localSGD_hook,
)
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

import grawa
from grawa.lab.tasks.task import Data, Task
from grawa.seeding import generator
from methods import QUIETLY

DDP = "DDP"
"""The method whose loss at the end the others are to reach."""

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a method is applied to, on this process."""

    task: Task
    data: Data
    model: nn.Module
    optimizer: Optimizer
    seed: int
    steps: int
    """Local steps of the run."""
    sync_every: int
    batch: int
    """Samples in a worker's batch."""
    each: int
    """Processes on a host."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a training loop needs of a method."""

    model: nn.Module
    """For forward and backward passes."""
    optimizer: Any
    """With `step()` and `zero_grad()`."""
    record_loss: Callable[[Tensor], object] = lambda _: None


Method = Callable[[Setup], AbstractContextManager[Training]]
"""Its context ends with whatever the method does at the end of training."""


@contextmanager
def ddp(setup: Setup) -> Generator[Training]:
    """Torch's `DistributedDataParallel`, as it is by default."""
    yield Training(model=DistributedDataParallel(setup.model), optimizer=setup.optimizer)


@contextmanager
def post_local_sgd(setup: Setup) -> Generator[Training]:
    """Torch's PostLocalSGD: DDP for a tenth of the steps; then gradients inside the host only."""
    from torch.distributed.optim import PostLocalSGDOptimizer  # which warns when it is imported

    begins = setup.steps // 10
    inside, _ = dist.new_subgroups(setup.each)
    model = DistributedDataParallel(setup.model)
    state = PostLocalSGDState(process_group=None, subgroup=inside, start_localSGD_iter=begins)
    model.register_comm_hook(state, post_localSGD_hook)
    averager = PeriodicModelAverager(period=setup.sync_every, warmup_steps=begins)
    yield Training(model=model, optimizer=PostLocalSGDOptimizer(setup.optimizer, averager))


@contextmanager
def ours(
    setup: Setup,
    *,
    make: Callable[[Setup], grawa.Strategy],
    overlap: float = 0.0,
    **options: Any,
) -> Generator[Training]:
    """A strategy of grawa.

    Args:
        setup: what it is applied to.
        make: makes the strategy.
        overlap: for which part of the steps between rounds these run in the background.
        options: of `Averager`, beside `sync_every`.

    Yields:
        What the loop needs.
    """
    averager = grawa.Averager(
        setup.model,
        setup.optimizer,
        make(setup),
        sync_every=setup.sync_every,
        overlap_steps=int(overlap * setup.sync_every),
        timeout=QUIETLY,
        **options,
    )
    with averager:
        yield Training(
            model=setup.model, optimizer=setup.optimizer, record_loss=averager.record_loss
        )


def _shared_batch(setup: Setup) -> grawa.ProbeNorms:
    """Norms on a batch as large as those of four workers, drawn from all training data."""
    inputs, targets = setup.data.train_inputs, setup.data.train_targets

    def batch(index: int) -> Batch:
        random = generator(setup.seed, f"shared-batch-{index}")
        picked = torch.randint(len(inputs), (4 * setup.batch,), generator=random)
        return inputs[picked], targets[picked]

    return grawa.ProbeNorms(batch=batch, loss=lambda model, both: setup.task.loss(model, *both))


def _always(strategy: grawa.Strategy) -> Callable[[Setup], grawa.Strategy]:
    return lambda _: strategy


def _lgrawa(setup: Setup) -> grawa.Strategy:
    return grawa.LGRAWA(score=_shared_batch(setup))


METHODS: Mapping[str, Method] = {
    DDP: ddp,
    "PostLocalSGD": post_local_sgd,
    "LocalSGD": partial(ours, make=_always(grawa.LocalSGD())),
    "DiLoCo": partial(ours, make=_always(grawa.DiLoCo())),
    "EASGD": partial(ours, make=_always(grawa.EASGD())),
    "LSGD": partial(ours, make=_always(grawa.LSGD())),
    "MGRAWA": partial(ours, make=_always(grawa.MGRAWA())),
    "LGRAWA": partial(ours, make=_lgrawa),
    "LGRAWA, overlap, int8": partial(ours, make=_lgrawa, overlap=0.5, comm_dtype="int8"),
}
"""All methods, in the order of the tables."""
