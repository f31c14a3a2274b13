"""The tensors of hosted models as stacks: one row for each worker in this process."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from grawa.errors import UserError
from grawa.math.leaves import Rows, as_stack, names_by_kind


def stack_of(tables: Sequence[dict[str, Tensor]], names: Sequence[str]) -> Rows:
    """Named tensors of hosted models as one stack whose rows are the models' own tensors.

    A change of the stack changes the models. With one model the rows are views of its tensors,
    which stay where they are in memory. With several, the tensors are moved into one block of
    memory per dtype and device, so that arithmetic need not go tensor by tensor. Each still has
    its own storage, since some formats save tensors that share a storage only once.

    Args:
        tables: name -> parameter or buffer, of each of K models.
        names: which of them.

    Returns:
        name -> (K, *shape); of complex tensors the real and imaginary parts, (K, *shape, 2).

    >>> models = [torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)]
    >>> stack = stack_of([dict(model.named_parameters()) for model in models], ["weight"])
    >>> _ = stack["weight"].zero_()
    >>> models[1].weight.abs().sum().item()
    0.0
    """
    for name in names:
        _check_dense(name, local(tables[0][name]))
    if len(tables) == 1:
        return Rows((name, values(tables[0][name]).unsqueeze(0)) for name in names)
    first = {name: values(tables[0][name]).unsqueeze(0) for name in names}
    found: dict[str, Tensor] = {}
    blocks: list[Tensor] = []
    for same_kind in names_by_kind(first).values():
        parts, block = _in_one_block([[table[name] for name in same_kind] for table in tables])
        found.update(zip(same_kind, parts, strict=True))
        blocks.append(block)
    stack = Rows((name, found[name]) for name in names)
    stack.blocks = blocks
    return stack


def _check_dense(name: str, tensor: Tensor) -> None:
    if not is_dense(tensor):
        raise UserError(
            f"{name!r} (shape {tuple(tensor.shape)}, strides {tensor.stride()}) is "
            "not one block of memory; call .contiguous() on it before training"
        )


def _in_one_block(rows: Sequence[Sequence[Tensor]]) -> tuple[list[Tensor], Tensor]:
    """Moves K rows of L tensors, of one dtype and device, into one block of memory.

    Returns:
        L tensors (K, *shape), and all of them as one (K, P).
    """
    forms = [values(tensor) for tensor in rows[0]]
    sizes = [form.numel() for form in forms]
    dtype, device = forms[0].dtype, forms[0].device
    block = torch.empty(len(rows), sum(sizes), dtype=dtype, device=device)
    for row, target in zip(rows, block, strict=True):
        for tensor, part, form in zip(row, target.split(sizes), forms, strict=True):
            # Through DLPack, the part gets a storage of its own at the same memory.
            place = from_dlpack(part).as_strided(form.shape, form.stride())
            place.copy_(values(tensor))
            tensor.data = torch.view_as_complex(place) if tensor.is_complex() else place
    return as_stack(block, forms), block


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor: its shard of a DTensor, otherwise the tensor itself."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def values(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, detached; complex numbers viewed as real ones."""
    part = local(tensor).detach()
    return torch.view_as_real(part) if part.is_complex() else part


def is_strided(tensor: Tensor) -> bool:
    """Whether a tensor is a plain block of numbers: not sparse, nor a library's packed format."""
    usual = type(tensor.data) is Tensor or hasattr(tensor, "to_local")
    return usual and tensor.layout == torch.strided and not tensor.is_quantized


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
