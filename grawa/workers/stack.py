"""The tensors of hosted models as stacks: one row for each worker of this process."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.dlpack import from_dlpack

from grawa.errors import UserError
from grawa.math.leaves import Rows, as_stack, names_by_kind


def host(
    models: Sequence[nn.Module],
    names: Iterable[str],
    *,
    together: bool = False,
) -> Rows:
    """Named parameters or buffers of hosted models as one stack; the models go on using the rows.

    What is done to the stack is done to the models. With one model the rows are views. With
    several, or if asked to, the tensors are moved into one block of memory per dtype and device,
    so that messages and arithmetic need not go tensor by tensor. Each still has a storage of its
    own, for those who save models and drop what shares a storage.

    Args:
        models: K models with the same parameters.
        names: which, as in `named_parameters()` and `named_buffers()`.
        together: move the tensors of one model too.

    Returns:
        name -> (K, *shape).

    Raises:
        UserError: if a tensor's elements do not fill one block of memory.

    >>> models = [nn.Linear(2, 1), nn.Linear(2, 1)]
    >>> stack = host(models, ["weight"])
    >>> _ = stack["weight"].zero_()
    >>> models[1].weight.abs().sum().item()
    0.0
    """
    tables = [dict((*model.named_parameters(), *model.named_buffers())) for model in models]
    sharded = any(local(tensor) is not tensor for tensor in tables[0].values())
    tables = [{name: local(t) for name, t in table.items()} for table in tables]
    names = list(names)
    for name in names:
        first = tables[0][name]
        if not is_dense(first):
            raise UserError(
                f"{name!r} (shape {tuple(first.shape)}, strides {first.stride()}) is "
                "not one block of memory; make it so with .contiguous() before training"
            )
    stack: dict[str, Tensor] = {}
    blocks: list[Tensor] = []
    for alike in names_by_kind({name: tables[0][name] for name in names}).values():
        rows = [[table[name] for name in alike] for table in tables]
        if len(models) == 1 and (sharded or not together):  # shards are somebody else's
            stack.update((name, tables[0][name].detach().unsqueeze(0)) for name in alike)
        else:
            parts, block = _in_one_block(rows)
            stack.update(zip(alike, parts, strict=True))
            blocks.append(block)
    ordered = Rows((name, stack[name]) for name in names)
    ordered.blocks = blocks
    return ordered


def _in_one_block(rows: Sequence[Sequence[Tensor]]) -> tuple[list[Tensor], Tensor]:
    """Moves K rows of L tensors of one kind together.

    Returns:
        L tensors (K, *shape), and all of them as one (K, P).
    """
    first = rows[0]
    sizes = [tensor.numel() for tensor in first]
    dtype, device = first[0].dtype, first[0].device
    block = torch.empty(len(rows), sum(sizes), dtype=dtype, device=device)
    for row, target in zip(rows, block, strict=True):
        for tensor, part, form in zip(row, target.split(sizes), first, strict=True):
            # The way through DLPack gives the part a storage of its own at the same memory.
            place = from_dlpack(part).as_strided(form.shape, form.stride())
            place.copy_(tensor.detach())
            tensor.data = place
    return as_stack(block, first), block


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor: a shard's values if it is sharded (a DTensor), else all."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def is_dense(tensor: Tensor) -> bool:
    """Whether a tensor's elements fill one block of memory, in any order of dimensions.

    Returns:
        Also true for a tensor without elements.

    >>> is_dense(torch.zeros(2, 3).t()), is_dense(torch.zeros(4)[::2])
    (True, False)
    """
    expected = 1
    for size, stride in sorted(zip(tensor.shape, tensor.stride(), strict=True), key=lambda s: s[1]):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True
