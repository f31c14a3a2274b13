"""Probes: a model's loss or gradients on a batch that all workers share, without side effects."""

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from grawa.errors import UserError
from grawa.modes import evaluating
from grawa.scores.protocol import Loss


def gradients_on(
    model: nn.Module, parameters: Sequence[nn.Parameter], batch: Any, loss: Loss
) -> list[Tensor | None]:
    """The gradients of a model's parameters on a batch, in eval mode.

    `.grad`, buffers, modes and the random number generators are restored afterwards.

    Args:
        model: the model.
        parameters: some of its parameters.
        batch: the batch.
        loss: computes the loss of the model on the batch, a scalar.

    Returns:
        A gradient for each parameter; `None` where there is none.

    Raises:
        UserError: if the loss is not a scalar on the model's device that depends on the model.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> gradients_on(model, [model.weight], torch.ones(1, 2), lambda m, x: m(x).sum())
    [tensor([[1., 1.]])]
    """
    trained = [p for p in parameters if p.requires_grad]
    with _untouched(model, parameters), torch.enable_grad():
        value = _loss_of(model, parameters, batch, loss)
        if trained and not value.requires_grad:
            raise UserError(
                "the loss of a probe does not depend on the model's parameters: return a tensor "
                "that the model computed, not a number or a detached tensor"
            )
        if any(hasattr(p, "to_local") for p in trained):
            grads = _backward(value, trained)
        else:
            grads = list(torch.autograd.grad(value, trained, allow_unused=True)) if trained else []
    found = dict(zip(map(id, trained), grads, strict=True))
    return [found.get(id(p)) for p in parameters]


def loss_on(model: nn.Module, parameters: Sequence[nn.Parameter], batch: Any, loss: Loss) -> Tensor:
    """The loss of a model on a batch, a scalar; arguments and restoring as in `gradients_on`."""
    with _untouched(model, parameters), torch.no_grad():
        return _loss_of(model, parameters, batch, loss)


def _loss_of(
    model: nn.Module, parameters: Sequence[nn.Parameter], batch: Any, loss: Loss
) -> Tensor:
    value = loss(model, batch)
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise UserError(f"the loss of a probe must be a tensor with one number, got {got}")
    devices = {p.device for p in parameters}
    if value.device not in devices:
        raise UserError(
            f"the loss of a probe is on {value.device}, and the model on "
            f"{', '.join(sorted(map(str, devices)))}: move the batch to the model's device"
        )
    return value.reshape(())


def _backward(value: Tensor, trained: Sequence[nn.Parameter]) -> list[Tensor | None]:
    """Gradients through `.grad`, since FSDP reduces gradients of shards only into it."""
    for p in trained:
        p.grad = None
    value.backward()
    return [p.grad for p in trained]


@contextmanager
def _untouched(model: nn.Module, parameters: Sequence[nn.Parameter]) -> Generator[None]:
    """Eval mode; afterwards gradients, buffers, modes and generators are restored."""
    devices = [p.device for p in parameters[:1] if p.device.type == "cuda"]
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.random.fork_rng(devices))
        stack.callback(_put_back, [(p, p.grad) for p in parameters])
        stack.callback(_reshard, model)
        stack.enter_context(_same_buffers(model))
        yield


def _reshard(model: nn.Module) -> None:
    """Shards FSDP's parameters again, which it does by itself only after a backward pass."""
    for module in model.modules():
        if hasattr(module, "reshard") and hasattr(module, "unshard"):
            cast(Any, module).reshard()


def _put_back(grads: Sequence[tuple[nn.Parameter, Tensor | None]]) -> None:
    for parameter, grad in grads:
        parameter.grad = grad


@contextmanager
def _same_buffers(model: nn.Module) -> Generator[None]:
    """Restores buffers afterwards, which some models change in `forward` even in eval mode."""
    kept = [
        (module, name, buffer, buffer._version, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        for module, name, buffer, version, values in kept:
            module._buffers[name] = buffer
            if buffer._version != version:
                with torch.no_grad():
                    buffer.copy_(values)
