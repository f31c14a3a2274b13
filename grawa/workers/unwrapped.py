"""What frameworks wrap around models and optimizers, and what is inside."""

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from grawa.errors import UserError

_FORWARDERS = ("accelerate.optimizer", "lightning.", "lightning_fabric.", "pytorch_lightning.")
"""Modules of classes that only pass `step()` on to the optimizer in their attribute `optimizer`."""

_INSIDE = {
    "torch._dynamo.eval_frame": "_orig_mod",
    "lightning.fabric.wrappers": "_original_module",
    "lightning_fabric.wrappers": "_original_module",
}
"""Module of a wrapper's class -> the name under which it has the model."""

_FSDP1 = "torch.distributed.fsdp.fully_sharded_data_parallel"


def inner_model(model: nn.Module) -> nn.Module:
    """The model inside DDP, `torch.compile` and Lightning Fabric, by whose names all is named.

    Args:
        model: may be wrapped, several times.

    Returns:
        The model itself.
    """
    while (inner := _wrapped_by(model)) is not None:
        model = inner
    return model


def _wrapped_by(model: nn.Module) -> nn.Module | None:
    if isinstance(model, DistributedDataParallel):
        inner: nn.Module = model.module
        return inner
    name = _INSIDE.get(type(model).__module__, "")
    return model._modules.get(name)  # such wrappers pass other attributes on


def inner_optimizer(optimizer: Optimizer) -> Optimizer:
    """The optimizer inside the wrappers of Accelerate and Lightning, whose steps can be counted.

    Args:
        optimizer: may be wrapped.

    Returns:
        The optimizer itself.
    """
    while type(optimizer).__module__.startswith(_FORWARDERS):
        inner = getattr(optimizer, "optimizer", None)
        if not isinstance(inner, Optimizer):
            break
        optimizer = inner
    return optimizer


def check_not_flat(model: nn.Module) -> None:
    """Refuses FSDP1, which keeps all parameters of a module in one flat shard.

    Raises:
        UserError: naming what to use instead.
    """
    if any(type(module).__module__ == _FSDP1 for module in model.modules()):
        raise UserError(
            "the model is wrapped in FullyShardedDataParallel (FSDP1), whose flat shards have no "
            "parameters that could be averaged by name: shard it with "
            "torch.distributed.fsdp.fully_shard (FSDP2)"
        )
