"""What is saved of a worker: its model and its optimizers, as plain tensors of this process."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from grawa.checkpoints.optimizers import check_optimizers, put_optimizer
from grawa.errors import UserError
from grawa.workers.stack import is_strided, local


def worker_state(
    model: nn.Module, optimizers: Sequence[Optimizer], frozen: Sequence[str]
) -> dict[str, Any]:
    """A worker's parameters, buffers, and optimizers' states.

    Args:
        model: the worker's.
        optimizers: those of the model.
        frozen: parameters that are the same on all workers, and left out.

    Returns:
        Entries that share memory with the worker.
    """
    return {
        "parameters": _compact({n: p for n, p in _trained(model, frozen)}),
        "buffers": _compact(dict(_buffers(model))),
        "extra state": {name: module.get_extra_state() for name, module in _with_extra(model)},
        "optimizers": [
            {"class": type(each).__name__, "state": _compact(each.state_dict())}
            for each in optimizers
        ],
    }


def check_worker(
    saved: Mapping[str, Any],
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    frozen: Sequence[str],
) -> None:
    """Refuses what does not fit a worker; changes nothing.

    Args:
        saved: what `worker_state` returned, or something else.
        model: the worker's.
        optimizers: those of the model.
        frozen: parameters that are left out.

    Raises:
        UserError: naming the first difference.
    """
    if not isinstance(saved, dict) or saved.keys() != _ENTRIES:
        raise UserError("it does not hold a worker's model and optimizers")
    check_tensors("parameter", saved["parameters"], dict(_trained(model, frozen)))
    check_tensors("buffer", saved["buffers"], dict(_buffers(model)), resizable=True)
    named = [name for name, _ in _with_extra(model)]
    if not isinstance(saved["extra state"], dict) or list(saved["extra state"]) != named:
        raise UserError(f"the model's modules with an extra state are {named}, others were saved")
    check_optimizers(saved["optimizers"], optimizers)


_ENTRIES = {"parameters", "buffers", "extra state", "optimizers"}


def put_worker(
    saved: Mapping[str, Any],
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    frozen: Sequence[str],
) -> None:
    """Restores what `worker_state` returned, after `check_worker`.

    Args:
        saved: what `worker_state` returned.
        model: the worker's.
        optimizers: those of the model.
        frozen: parameters that are left out.
    """
    put_tensors(saved["parameters"], dict(_trained(model, frozen)))
    for name, buffer in _buffers(model):
        own = saved["buffers"][name]
        if buffer.shape == own.shape:
            local(buffer).copy_(own)
        else:
            owner, _, key = name.rpartition(".")
            setattr(model.get_submodule(owner), key, own.to(buffer.device))
    for name, module in _with_extra(model):
        module.set_extra_state(saved["extra state"][name])
    for entry, optimizer in zip(saved["optimizers"], optimizers, strict=True):
        put_optimizer(entry["state"], optimizer)


def frozen_state(model: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    """The parameters of these names, which share memory with the model."""
    named = dict(model.named_parameters())
    return {name: _compact(named[name]) for name in names}


def check_tensors(
    kind: str, saved: object, own: Mapping[str, Tensor], *, resizable: bool = False
) -> None:
    """Refuses named tensors that don't fit.

    Args:
        kind: what they are, for the message.
        saved: name -> tensor, or something else.
        own: those in whose place they would be put.
        resizable: whether they may have other shapes.

    Raises:
        UserError: naming the first that does not fit.
    """
    if not isinstance(saved, dict) or not all(isinstance(x, Tensor) for x in saved.values()):
        raise UserError(f"its {kind}s are damaged")
    for name in (*own, *saved):
        if name not in saved or name not in own:
            where = "the model" if name in own else "the checkpoint"
            raise UserError(f"{kind} {name!r} is in {where} only")
        forms = [(tuple(x.shape), x.dtype) for x in (saved[name], local(own[name]))]
        if forms[0] != forms[1] and not (resizable and forms[0][1] == forms[1][1]):
            told = ["{} {}".format(*form) for form in forms]
            raise UserError(f"{kind} {name!r} is {told[0]} there and {told[1]} here")


def check_alike(buffers: Sequence[Mapping[str, Tensor]]) -> None:
    """Refuses buffers, which may have other shapes than here, that are not alike.

    Args:
        buffers: of each hosted worker, name -> tensor.

    Raises:
        UserError: naming the first one whose shape differs between workers.
    """
    for name in buffers[0]:
        shapes = [tuple(own[name].shape) for own in buffers]
        if len(set(shapes)) > 1:
            raise UserError(f"buffer {name!r} has different shapes on its workers: {shapes}")


def put_tensors(saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Copies named tensors that fit into others."""
    for name, tensor in own.items():
        local(tensor.detach()).copy_(saved[name])


def _trained(model: nn.Module, frozen: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    """Parameters that are saved with the worker; those of packed formats never change."""
    for name, parameter in model.named_parameters():
        if name not in frozen and is_strided(parameter):
            yield name, parameter


def _buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((name, buffer) for name, buffer in model.named_buffers() if is_strided(buffer))


def _with_extra(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            yield name, module


def copied(value: Any) -> Any:
    """Copies of all tensors, on the CPU, in dictionaries, lists and tuples."""
    return _mapped(value, lambda x: x.to("cpu", copy=True))


def _compact(value: Any) -> Any:
    """The same, with this process's part of each tensor, and no more memory than it fills."""
    return _mapped(value, lambda x: x.clone() if x.untyped_storage().nbytes() > x.nbytes else x)


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(local(value).detach()) if is_strided(value) else value
    if isinstance(value, dict):
        return {key: _mapped(inner, change) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_mapped(inner, change) for inner in value)
    return value


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's default generators, of the CPU and of the device."""
    found = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found


def check_random_state(saved: Mapping[str, object]) -> None:
    """Refuses what `random_state` could not have returned.

    Raises:
        UserError: if so.
    """
    cpu = torch.get_rng_state()
    own = saved.get("cpu")
    if not isinstance(own, Tensor) or (own.shape, own.dtype) != (cpu.shape, cpu.dtype):
        raise UserError("its random state is damaged")


def put_random_state(saved: Mapping[str, Tensor], device: torch.device) -> None:
    """Restores what `random_state` returned."""
    torch.set_rng_state(saved["cpu"])
    if device.type == "cuda" and "cuda" in saved:
        torch.cuda.set_rng_state(saved["cuda"], device)
