"""The two containers every method works on: rows of hosted workers, and leaves shared by all."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
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


class Rows(dict[str, Tensor]):
    """A stack whose tensors lie together.

    Attributes:
        blocks: one (K, P) tensor per dtype and device, in the order of the flat tensors of
            `Leaves`; none if the memory belongs to somebody else.
    """

    def __init__(self, *entries: Iterable[tuple[str, Tensor]]) -> None:
        super().__init__(*entries)
        self.blocks: list[Tensor] = []


def host(models: Sequence[nn.Module], names: Iterable[str]) -> Rows:
    """Named parameters or buffers of hosted models as one stack; the models go on using the rows.

    The tensors are moved into one block of memory per dtype and device, so that messages need not
    go tensor by tensor; tensors that lie so already stay. What is done to the stack is done to
    the models.

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
    tables = [dict((*model.named_parameters(), *model.named_buffers())) for model in models]
    sharded = any(local(tensor) is not tensor for tensor in tables[0].values())
    tables = [{name: local(t) for name, t in table.items()} for table in tables]
    names = list(names)
    kinds: dict[tuple[torch.dtype, torch.device], list[str]] = {}
    for name in names:
        first = tables[0][name]
        if not is_dense(first):
            raise UserError(
                f"{name!r} (shape {tuple(first.shape)}, strides {first.stride()}) is "
                "not one block of memory; make it so with .contiguous() before training"
            )
        kinds.setdefault((first.dtype, first.device), []).append(name)
    stack: dict[str, Tensor] = {}
    blocks: list[Tensor] = []
    for alike in kinds.values():
        rows = [[table[name] for name in alike] for table in tables]
        if sharded:  # their memory belongs to whoever shards them
            stack.update((name, tables[0][name].detach().unsqueeze(0)) for name in alike)
        else:
            parts, block = _in_one_block(rows)
            stack.update(zip(alike, parts, strict=True))
            blocks.append(block)
    ordered = Rows((name, stack[name]) for name in names)
    ordered.blocks = blocks
    return ordered


def _in_one_block(rows: Sequence[Sequence[Tensor]]) -> tuple[list[Tensor], Tensor]:
    """Moves K rows of L tensors of one kind together, unless they are so already.

    Returns:
        L tensors (K, *shape), and all of them as one (K, P).
    """
    first = rows[0]
    row_size = sum(tensor.numel() for tensor in first)
    if not _adjoin([tensor for row in rows for tensor in row]):
        block = torch.empty(len(rows), row_size, dtype=first[0].dtype, device=first[0].device)
        for row, target in zip(rows, block, strict=True):
            parts = target.split([tensor.numel() for tensor in row])
            for tensor, part, form in zip(row, parts, first, strict=True):
                place = part.as_strided(form.shape, form.stride())
                place.copy_(tensor.detach())
                tensor.data = place
    parts = [
        tensor.detach().as_strided((len(rows), *tensor.shape), (row_size, *tensor.stride()))
        for tensor in first
    ]
    return parts, first[0].detach().as_strided((len(rows), row_size), (row_size, 1))


def _adjoin(tensors: Sequence[Tensor]) -> bool:
    """Whether dense tensors follow each other in one memory without gaps."""
    filled = [tensor for tensor in tensors if tensor.numel() > 0]
    if len({tensor.untyped_storage().data_ptr() for tensor in filled}) > 1:
        return False
    return all(a.data_ptr() + a.nbytes == b.data_ptr() for a, b in pairwise(filled))


def as_blocks(tensors: Sequence[Tensor]) -> list[Tensor] | None:
    """Tensors that lie together, as `host` and `Leaves` lay them, seen as flat ones.

    Returns:
        One per dtype and device, in the order of the first of each; `None` if they lie otherwise.

    >>> as_blocks(list(torch.arange(4).split(2)))
    [tensor([0, 1, 2, 3])]
    """
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    if not all(map(_adjoin, kinds.values())):
        return None
    return [
        alike[0].as_strided((sum(tensor.numel() for tensor in alike),), (1,))
        for alike in kinds.values()
    ]


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
