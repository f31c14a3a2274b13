"""What is saved of a worker: its model and its optimizers, as plain tensors of this process."""

import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from grawa.errors import UserError
from grawa.rounds.misfit import misfit
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
    here = [type(each).__name__ for each in optimizers]
    entries = saved["optimizers"]
    if not isinstance(entries, list) or not all(_is_optimizer(entry) for entry in entries):
        raise UserError("the optimizers' states in it are damaged")
    classes = [entry["class"] for entry in entries]
    if classes != here:
        raise UserError(f"it has the state of the optimizers {classes}, and here are {here}")
    for entry, own in zip(entries, optimizers, strict=True):
        _check_groups(entry["state"], own)


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
        _put_optimizer(entry["state"], optimizer)


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


def _is_optimizer(entry: object) -> bool:
    if not isinstance(entry, dict) or entry.keys() != {"class", "state"}:
        return False
    state = entry["state"]
    if not isinstance(state, dict) or not isinstance(state.get("param_groups"), list):
        return False
    groups = state["param_groups"]
    return isinstance(state.get("state"), dict) and all(
        isinstance(group, dict) and isinstance(group.get("params"), list) for group in groups
    )


def _check_groups(saved: Mapping[str, Any], optimizer: Optimizer) -> None:
    sizes = [len(group["params"]) for group in saved["param_groups"]]
    own = [len(group["params"]) for group in optimizer.param_groups]
    if sizes != own:
        raise UserError(
            f"{type(optimizer).__name__} had parameter groups of {sizes} tensors and has {own}"
        )
    name = type(optimizer).__name__
    for i, (group, here) in enumerate(
        zip(saved["param_groups"], optimizer.param_groups, strict=True)
    ):
        for key in here.keys() & group.keys() - {"params"}:
            option = float(here[key]) if _is_number(here[key]) else here[key]
            value = float(group[key]) if _is_scalar(group[key]) else group[key]
            if wrong := misfit(value, option, f"group {i}, {key}"):
                raise UserError(f"an option of {name} is damaged: {wrong}")
    params = _params(optimizer)
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    if not all(type(x) is int for x in numbers) or numbers != list(range(len(params))):
        raise UserError(f"the state of {name} is damaged")
    for index, entries in saved["state"].items():
        if not isinstance(index, int) or not 0 <= index < len(params):
            raise UserError(f"the state of {name} is damaged")
        if not isinstance(entries, dict):
            raise UserError(f"the state of {name} is damaged")
    _try_to_load(saved, optimizer)


_HOOKS = ("_optimizer_load_state_dict_pre_hooks", "_optimizer_load_state_dict_post_hooks")


def _try_to_load(saved: Mapping[str, Any], optimizer: Optimizer) -> None:
    """Tries it on an optimizer whose tensors have no values, and so take no memory.

    Only if it loads as torch's do: others might change what they share with the one for the trial.

    Raises:
        UserError: if it fails.
    """
    if type(optimizer).load_state_dict is not Optimizer.load_state_dict:
        return
    trial = object.__new__(type(optimizer))
    vars(trial).update(vars(optimizer) | {name: OrderedDict() for name in _HOOKS})
    trial.param_groups = [
        {**group, "params": [torch.empty_like(local(p), device="meta") for p in group["params"]]}
        for group in optimizer.param_groups
    ]
    trial.state = defaultdict(dict)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial.load_state_dict(dict(saved))
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        raise UserError(f"the state of {type(optimizer).__name__} is damaged") from None


def _is_number(value: Any) -> bool:
    """Whether an option of an optimizer, such as `lr`, may be whole, a fraction or a tensor."""
    return type(value) in (int, float) or _is_scalar(value)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex()


def _put_optimizer(saved: Mapping[str, Any], optimizer: Optimizer) -> None:
    """Loads an optimizer's state, whose tensors keep their dtype."""
    params = _params(optimizer)
    sharded = {
        i: {key: _like(value, params[i]) for key, value in entries.items()}
        for i, entries in saved["state"].items()
    }
    optimizer.load_state_dict({**saved, "state": sharded})
    for i, entries in sharded.items():
        own = optimizer.state[params[i]]
        for key, value in entries.items():
            if isinstance(value, Tensor) and own[key].dtype != value.dtype:
                own[key] = value.to(own[key].device)  # torch has given it the parameter's dtype


def _like(value: object, parameter: Tensor) -> object:
    """A shard as a part of a DTensor, if the parameter is one and it has the form of its shard."""
    if not isinstance(value, Tensor) or not hasattr(parameter, "to_local"):
        return value
    if value.shape != local(parameter).shape:
        return value
    from torch.distributed.tensor import DTensor  # here, since it is there only with DTensors

    assert isinstance(parameter, DTensor), "it has shards"
    return DTensor.from_local(
        value.to(parameter.device),
        parameter.device_mesh,
        parameter.placements,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def _params(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


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
