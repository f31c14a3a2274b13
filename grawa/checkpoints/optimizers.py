"""The states of optimizers in a checkpoint: what fits, and putting them back."""

import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from grawa.errors import UserError
from grawa.rounds.misfit import misfit
from grawa.workers.stack import local


def check_optimizers(entries: object, optimizers: Sequence[Optimizer]) -> None:
    """Refuses states that don't fit optimizers; changes nothing.

    Args:
        entries: of each, its class and its state; or something else.
        optimizers: those in which they would be put.

    Raises:
        UserError: naming the first difference.
    """
    if not isinstance(entries, list) or not all(_is_optimizer(entry) for entry in entries):
        raise UserError("the optimizers' states in it are damaged")
    here = [type(each).__name__ for each in optimizers]
    classes = [entry["class"] for entry in entries]
    if classes != here:
        raise UserError(f"it has the state of the optimizers {classes}, and here are {here}")
    for entry, own in zip(entries, optimizers, strict=True):
        _check_groups(entry["state"], own)


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


def put_optimizer(saved: Mapping[str, Any], optimizer: Optimizer) -> None:
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
