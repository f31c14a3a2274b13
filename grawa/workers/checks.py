"""Checks that refuse what can't be averaged, each with advice what to do."""

import os
from collections.abc import Sequence
from itertools import chain, pairwise
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from grawa.errors import UserError
from grawa.math.finite import are_finite
from grawa.math.host import on_host
from grawa.warn import warn
from grawa.workers.stack import local

_DTYPES = {
    torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64, torch.complex128,
}  # fmt: skip
"""Dtypes of parameters that can be averaged."""

_LAUNCHED = (
    ("WORLD_SIZE", "RANK", "torchrun"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "srun"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "mpirun"),
    ("PMI_SIZE", "PMI_RANK", "MPI"),
    ("NUM_REPLICA_GROUPS", "REPLICA_GROUP_ID", "torchft"),
)
"""Environment variables for the number of processes and for the rank; and their launcher."""


def is_one_of_several() -> bool:
    """Whether there is a process group of several processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def check_connected(connected: bool) -> None:
    """Refuses a process group that was opened after the Averager was made.

    Args:
        connected: whether the Averager needs none, or found one.

    Raises:
        UserError: if there is one now.
    """
    if not connected and is_one_of_several():
        raise UserError(
            "a process group was opened after the Averager was made, so this process would "
            "train alone: open the process group first"
        )


def check_losses(loss: object, num_hosted: int) -> Tensor:
    """Refuses what is not a loss for each of K hosted workers.

    Returns:
        The losses, detached, (K,).

    Raises:
        UserError: if they are something else.
    """
    if isinstance(loss, int | float):
        loss = torch.tensor(float(loss))
    if not isinstance(loss, Tensor) or loss.numel() != num_hosted:
        raise UserError(
            f"record_loss takes a number, or a tensor with one loss for each of the {num_hosted} "
            f"hosted workers, got {loss!r}"
        )
    return loss.detach().reshape(num_hosted)


def check_samples(samples: object, num_hosted: int) -> Tensor:
    """Refuses what is not a number of samples, or one for each of K hosted workers.

    Returns:
        The numbers, (K,) or (1,), float64, on the CPU.

    Raises:
        UserError: if they are something else.
    """
    found = samples if isinstance(samples, Sequence | Tensor) else [samples]
    try:
        counts = torch.as_tensor(found, dtype=torch.float64, device="cpu").reshape(-1)
    except (RuntimeError, TypeError, ValueError):
        counts = torch.empty(0)
    if len(counts) not in (1, num_hosted) or not bool((counts.isfinite() & (counts >= 0)).all()):
        raise UserError(
            "record_samples takes the number of samples of a batch, or one number for each of the "
            f"{num_hosted} hosted workers, got {samples!r}"
        )
    return counts


def check_launched_alone() -> None:
    """Refuses a process that a launcher started as one of several, if there is no process group.

    Raises:
        UserError: naming the launcher's variable.
    """
    for size, rank, launcher in _LAUNCHED:
        count = os.environ.get(size, "")
        if rank in os.environ and count.isdigit() and int(count) > 1:
            if lighthouse := os.environ.get("TORCHFT_LIGHTHOUSE"):
                raise UserError(
                    f"this process was started as one of {count} elastic workers ({size}={count}, "
                    f"TORCHFT_LIGHTHOUSE={lighthouse}), and without elastic=grawa.Elastic(...), or "
                    "--elastic, each would train alone: pass it, or unset TORCHFT_LIGHTHOUSE"
                )
            raise UserError(
                f"{launcher} started {count} processes ({size}={count}), but there is no process "
                "group, so each would train alone: open one before the Averager, with "
                "`with grawa.distributed():` or torch.distributed.init_process_group()"
            )


def check_model(model: nn.Module) -> None:
    """Refuses models without parameters, or with parameters that have no values yet.

    Raises:
        UserError: naming the first such parameter.
    """
    named = dict(model.named_parameters())
    if not named:
        raise UserError("the model has no parameters, so there is nothing to average")
    for name, parameter in named.items():
        if is_lazy(parameter):
            raise UserError(
                f"parameter {name!r} is lazy: it has no shape before the first forward pass. Run "
                "one batch through the model, then make the optimizer and the Averager"
            )
        if parameter.is_meta:
            raise UserError(
                f"parameter {name!r} is on the meta device, without values: materialise the model "
                "(model.to_empty(device=...) and its initialisation) before the Averager"
            )


def check_averageable(named: dict[str, nn.Parameter]) -> None:
    """Refuses parameters that can't be averaged, or that overlap in memory.

    Args:
        named: the parameters that the optimizer holds.

    Raises:
        UserError: naming the parameter.
    """
    for name, parameter in named.items():
        if parameter.dtype not in _DTYPES:
            raise UserError(
                f"parameter {name!r} is {parameter.dtype}, which can't be averaged: "
                "freeze it (requires_grad=False, and not in the optimizer), or train it in "
                "float32 or bfloat16"
            )
    spans: dict[torch.device, list[tuple[int, int, str]]] = {}
    for name, parameter in named.items():
        tensor = local(parameter.detach())
        if tensor.numel():
            start = tensor.data_ptr()
            spans.setdefault(tensor.device, []).append((start, start + tensor.nbytes, name))
    for found in spans.values():
        for (_, stop, name), (start, _, other) in pairwise(sorted(found)):
            if start < stop:
                raise UserError(
                    f"parameters {name!r} and {other!r} share memory, so a round would "
                    "move it twice: tie weights by sharing the Parameter itself "
                    "(b.weight = a.weight), not its .data"
                )


def check_not_parallel(model: nn.Module, ranks: Sequence[int]) -> None:
    """Refuses a model whose gradients DDP averages over the same processes that average weights.

    Args:
        model: may contain wrapped modules.
        ranks: global ranks of the processes that average.

    Raises:
        UserError: if there is such a module.
    """
    for module in model.modules():
        if not isinstance(module, DistributedDataParallel):
            continue
        shared = set(dist.get_process_group_ranks(module.process_group)) & set(ranks)
        if len(shared) > 1:
            raise UserError(
                f"the model is wrapped in DistributedDataParallel over ranks {sorted(shared)}, "
                "which also average their weights: DDP makes their gradients equal at every "
                "step, so averaging would do nothing. Pass the model without DDP "
                "(model.module); or, if a worker consists of several processes, give DDP a group "
                "of one worker's processes, pass it as worker_group too, and pass the processes "
                "with the same rank in each worker's group as process_group"
            )


def check_hooked(optimizers: Sequence[Optimizer]) -> None:
    """Refuses optimizers whose `step()` calls no hooks, so that no step would be counted.

    Raises:
        UserError: naming the class.
    """
    for optimizer in optimizers:
        if not getattr(type(optimizer).step, "hooked", False):
            base = next(
                (name for name, value in vars(optimizer).items() if isinstance(value, Optimizer)),
                None,
            )
            inner = f"optimizer.{base}" if base else "the optimizer inside it"
            raise UserError(
                f"{type(optimizer).__name__}.step() runs no step hooks (it was made without "
                f"torch.optim.Optimizer.__init__), so no step would be counted: give the Averager "
                f"{inner}, whose step() it calls"
            )


def check_no_weights_in_state(
    names: Sequence[str], params: Sequence[nn.Parameter], optimizers: Sequence[Optimizer]
) -> None:
    """Refuses optimizers with a copy of the weights, which would undo a round at their next step.

    Args:
        names: of a model's parameters.
        params: these parameters, after at least one step.
        optimizers: those of the model.

    Raises:
        UserError: naming the entry of the optimizer's state.
    """
    entries = [
        _Entry(name, key, optimizer, local(entry), local(parameter.detach()))
        for name, parameter in zip(names, params, strict=True)
        for optimizer in optimizers
        for key, entry in optimizer.state.get(parameter, {}).items()
        if isinstance(entry, Tensor)
        and entry.shape == parameter.shape
        and entry.is_floating_point()
        and parameter.is_floating_point()
    ]
    free = [
        entry
        for entry in entries
        if entry.key == "z" and "schedulefree" in type(entry.optimizer).__name__.lower()
    ]
    copies = (
        entry
        for entry in _that_begin_alike(entries)
        if torch.equal(entry.kept.to(entry.own), entry.own) and bool(entry.own.any())
    )
    found = next(chain(free, copies), None)
    if found is not None:
        what = f"{type(found.optimizer).__name__} keeps weights in its state ({found.key!r} of "
        if free:
            raise UserError(
                f"{what}{found.name!r}) and pulls the parameters to them at each step, and rounds "
                "move the parameters only: use the optimizer without schedule-free, with a "
                "learning rate schedule"
            )
        raise UserError(
            f"{what}{found.name!r}) and overwrites the parameters with them at its next step, "
            "which would undo every round: let it hold the float32 parameters themselves (and "
            "compute in bfloat16 with autocast), or use an optimizer without a copy of the "
            "weights"
        )


class _Entry(NamedTuple):
    """An entry of an optimizer's state that is like a parameter."""

    name: str
    key: str
    optimizer: Optimizer
    kept: Tensor
    own: Tensor


def _that_begin_alike(entries: Sequence[_Entry]) -> list[_Entry]:
    """Those whose first numbers equal the parameters', for which a GPU is waited for once."""
    some = [entry for entry in entries if entry.own.numel()]
    kept = [_first(entry.kept).to(entry.own.dtype) for entry in some]
    found = on_host([*kept, *(_first(entry.own) for entry in some)])
    pairs = zip(found[: len(some)], found[len(some) :], strict=True)
    return [entry for entry, (a, b) in zip(some, pairs, strict=True) if torch.equal(a, b)]


def _first(tensor: Tensor) -> Tensor:
    """The first number, (), as a view: flattening copies a tensor in another order of memory."""
    return tensor[(0,) * tensor.dim()]


def with_warning(consensus: dict[str, Tensor]) -> dict[str, Tensor]:
    """The consensus as it is, name -> tensor, after a warning if it is not finite."""
    if not are_finite(consensus.values()):
        warn(
            "the consensus is not finite: training has diverged. Go back to an earlier state, "
            "lower the learning rate, or turn the guard on"
        )
    return consensus
