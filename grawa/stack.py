"""The two containers every method works on: rows of hosted workers, and leaves shared by all."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from grawa.errors import UserError

Stack = Mapping[str, Tensor]
"""Parameter name -> (K, *shape): one row for each worker hosted by this process."""

Grouping = Callable[[Sequence[str]], tuple[int, ...]]
"""Parameter names -> the group of each, numbered from 0; parameters of a group share one weight."""


class Place(NamedTuple):
    """Where a leaf lies: in which flat tensor, at which offset in elements, in what form."""

    flat: int
    offset: int
    shape: torch.Size
    stride: tuple[int, ...]


class Leaves(dict[str, Tensor]):
    """Parameter name -> tensor of the parameter's shape; the same on every process.

    The tensors are views of one flat tensor per dtype and device, so that arithmetic and
    messages need not go leaf by leaf. Only the entries' values may change, never the entries.

    Args:
        flats: one flat tensor per dtype and device.
        places: where each leaf lies in them.

    Attributes:
        rows: the leaves in order, each seen as one row of a stack, shape (1, *shape).
    """

    def __init__(self, flats: Sequence[Tensor], places: Mapping[str, Place]) -> None:
        super().__init__(
            (name, flats[place.flat].as_strided(place.shape, place.stride, place.offset))
            for name, place in places.items()
        )
        self.flats = list(flats)
        self.places = dict(places)
        self.rows = [leaf.unsqueeze(0) for leaf in self.values()]

    @classmethod
    def like(cls, stack: Stack, multiple: int = 1) -> "Leaves":
        """Uninitialised leaves of the form of a stack's rows.

        Args:
            stack: name -> (K, *shape).
            multiple: each flat tensor is padded with zeros to a multiple of this many elements.

        Returns:
            Leaves with the rows' shapes, strides, dtypes and devices.
        """
        sizes: dict[tuple[torch.dtype, torch.device], int] = {}
        places: dict[str, Place] = {}
        for name, rows in stack.items():
            kind = (rows.dtype, rows.device)
            offset = sizes.setdefault(kind, 0)
            row = rows[0]
            places[name] = Place(list(sizes).index(kind), offset, row.shape, row.stride())
            sizes[kind] += row.numel()
        flats = []
        for (dtype, device), size in sizes.items():
            padded = -(-size // multiple) * multiple
            flats.append(torch.empty(padded, dtype=dtype, device=device))
            flats[-1][size:].zero_()
        return cls(flats, places)

    @classmethod
    def copy_of(cls, stack: Stack, row: int = 0) -> "Leaves":
        """Leaves that hold a copy of one row of a stack."""
        leaves = cls.like(stack)
        torch._foreach_copy_(list(leaves.values()), [rows[row] for rows in stack.values()])
        return leaves

    def zeros_like(self) -> "Leaves":
        """New leaves of the same form, all zero."""
        return Leaves([torch.zeros_like(flat) for flat in self.flats], self.places)

    def clone(self) -> "Leaves":
        """New leaves with the same values."""
        return Leaves([flat.clone() for flat in self.flats], self.places)


def host(models: Sequence[nn.Module], names: Iterable[str]) -> dict[str, Tensor]:
    """Named parameters or buffers of hosted models as one stack; the models go on using the rows.

    With one model the rows are views of its parameters and nothing is copied. With several, each
    parameter is moved into its row, so that what is done to the stack is done to the models.

    Args:
        models: K models with the same parameters.
        names: which, as in `named_parameters()` and `named_buffers()`.

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
    tables = [
        {name: local(t) for name, t in (*model.named_parameters(), *model.named_buffers())}
        for model in models
    ]
    stack: dict[str, Tensor] = {}
    for name in names:
        rows = [table[name] for table in tables]
        if len(rows) > 1 and _are_rows(rows):
            stack[name] = (
                rows[0]
                .detach()
                .as_strided((len(rows), *rows[0].shape), (rows[0].numel(), *rows[0].stride()))
            )
            continue
        if not is_dense(rows[0]):
            raise UserError(
                f"{name!r} (shape {tuple(rows[0].shape)}, strides {rows[0].stride()}) is "
                "not one block of memory; make it so with .contiguous() before training"
            )
        stack[name] = rows[0].detach().unsqueeze(0) if len(rows) == 1 else _restack(rows)
    return stack


def _are_rows(rows: Sequence[Tensor]) -> bool:
    """Whether tensors are the rows of one stack already."""
    first = rows[0]
    step = first.numel() * first.element_size()
    same_block = {row.untyped_storage().data_ptr() for row in rows}
    return len(same_block) == 1 and all(
        row.data_ptr() == first.data_ptr() + k * step for k, row in enumerate(rows)
    )


def _restack(rows: Sequence[Tensor]) -> Tensor:
    first = rows[0]
    block = torch.empty(len(rows), first.numel(), dtype=first.dtype, device=first.device)
    stacked = block.as_strided((len(rows), *first.shape), (first.numel(), *first.stride()))
    for row, parameter in zip(stacked, rows, strict=True):
        row.copy_(parameter.detach())
        parameter.data = row
    return stacked


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


def in_memory_order(tensor: Tensor) -> Tensor:
    """A dense tensor's elements in the order they lie in memory.

    Returns:
        A view, (numel,).

    >>> in_memory_order(torch.tensor([[1, 2], [3, 4]]).t())
    tensor([1, 2, 3, 4])
    """
    return tensor.as_strided((tensor.numel(),), (1,))


def by_model(names: Sequence[str]) -> tuple[int, ...]:
    """One group: all parameters of a model share a weight (MGRAWA).

    Returns:
        A zero for each name.

    >>> by_model(["0.weight", "0.bias"])
    (0, 0)
    """
    return (0,) * len(names)


def by_tensor(names: Sequence[str]) -> tuple[int, ...]:
    """One group per parameter tensor: each has a weight of its own (LGRAWA).

    Returns:
        The numbers from 0.

    >>> by_tensor(["0.weight", "0.bias"])
    (0, 1)
    """
    return tuple(range(len(names)))
