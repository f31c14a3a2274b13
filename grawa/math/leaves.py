"""The two containers every method works on: rows of hosted workers, and leaves shared by all."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

Stack = Mapping[str, Tensor]
"""Parameter name -> (K, *shape): one row for each worker hosted by this process."""

Kind = tuple[torch.dtype, torch.device]
"""Tensors of a kind can lie in one block of memory."""

Allocate = Callable[[int, torch.dtype, torch.device], Tensor]
"""Makes a flat tensor of so many elements, uninitialised."""


def private(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory that only this process uses: see `Allocate`."""
    return torch.empty(size, dtype=dtype, device=device)


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
        allocate: where leaves that are made of these are put.

    Attributes:
        rows: the leaves in order, each seen as one row of a stack, shape (1, *shape).
    """

    def __init__(
        self, flats: Sequence[Tensor], places: Mapping[str, Place], allocate: Allocate = private
    ) -> None:
        super().__init__(
            (name, flats[place.flat].as_strided(place.shape, place.stride, place.offset))
            for name, place in places.items()
        )
        self.flats = list(flats)
        self.places = dict(places)
        self._allocate = allocate
        self.rows = [leaf.unsqueeze(0) for leaf in self.values()]

    @classmethod
    def like(cls, stack: Stack, multiple: int = 1, allocate: Allocate = private) -> "Leaves":
        """Uninitialised leaves of the form of a stack's rows.

        Args:
            stack: name -> (K, *shape).
            multiple: each flat tensor is padded with zeros to a multiple of this many elements.
            allocate: makes the flat tensors.

        Returns:
            Leaves with the rows' shapes, strides, dtypes and devices.
        """
        sizes: dict[Kind, int] = {}
        places: dict[str, Place] = {}
        for name, rows in stack.items():
            kind = _kind(rows)
            offset = sizes.setdefault(kind, 0)
            row = rows[0]
            places[name] = Place(list(sizes).index(kind), offset, row.shape, row.stride())
            sizes[kind] += row.numel()
        flats = []
        for (dtype, device), size in sizes.items():
            padded = -(-size // multiple) * multiple
            flats.append(allocate(padded, dtype, device))
            flats[-1][size:].zero_()
        return cls(flats, places, allocate)

    @classmethod
    def copy_of(cls, stack: Stack, row: int = 0) -> "Leaves":
        """Leaves that hold a copy of one row of a stack."""
        leaves = cls.like(stack)
        torch._foreach_copy_(list(leaves.values()), [rows[row] for rows in stack.values()])
        return leaves

    def zeros_like(self) -> "Leaves":
        """New leaves of the same form, all zero."""
        twin = self._twin()
        torch._foreach_zero_(twin.flats)
        return twin

    def clone(self) -> "Leaves":
        """New leaves with the same values."""
        twin = self._twin()
        torch._foreach_copy_(twin.flats, self.flats)
        return twin

    def widened(self) -> "Leaves":
        """New leaves with the same values, 16-bit ones in float32, laid out as these."""
        wide = [flat.float() if flat.itemsize < 4 else flat.clone() for flat in self.flats]
        return Leaves(wide, self.places, self._allocate)

    def moved(self, multiple: int, allocate: Allocate) -> "Leaves":
        """New leaves with the same values, in memory that `allocate` makes; see `like`."""
        flats = []
        for flat in self.flats:
            size = -(-flat.numel() // multiple) * multiple
            flats.append(allocate(size, flat.dtype, flat.device))
            flats[-1][: flat.numel()] = flat
            flats[-1][flat.numel() :].zero_()
        return Leaves(flats, self.places, allocate)

    def _twin(self) -> "Leaves":
        flats = [self._allocate(flat.numel(), flat.dtype, flat.device) for flat in self.flats]
        return Leaves(flats, self.places, self._allocate)


class Rows(dict[str, Tensor]):
    """A stack whose tensors lie together.

    Attributes:
        blocks: one (K, P) tensor per dtype and device, in the order of the flat tensors of
            `Leaves`; none if the memory belongs to somebody else.
    """

    def __init__(self, *entries: Iterable[tuple[str, Tensor]]) -> None:
        super().__init__(*entries)
        self.blocks: list[Tensor] = []

    def part(self, names: Sequence[str]) -> "Rows":
        """Some of the rows, as views.

        Args:
            names: which; where there are blocks, those that lie next to each other in them.

        Returns:
            Rows with the matching parts of the blocks.
        """
        part = Rows((name, self[name]) for name in names)
        for block in self.blocks:
            alike = [rows for rows in part.values() if _kind(rows) == _kind(block)]
            if alike:
                start = (alike[0].data_ptr() - block.data_ptr()) // block.element_size()
                stop = start + sum(rows[0].numel() for rows in alike)
                part.blocks.append(block[:, start:stop])
        return part

    def worker(self, k: int) -> "Rows":
        """One hosted worker's row, as views: name -> (1, *shape)."""
        row = Rows((name, rows[k : k + 1]) for name, rows in self.items())
        row.blocks = [block[k : k + 1] for block in self.blocks]
        return row

    def twin(self, allocate: Allocate = private) -> "Rows":
        """Uninitialised rows of the same form, in blocks of their own, which `allocate` makes."""
        twin = Rows(self.items())
        for kind, names in names_by_kind(self).items():
            sizes = [self[name][0].numel() for name in names]
            rows = len(self[names[0]])
            block = allocate(rows * sum(sizes), *kind).view(rows, -1)
            forms = [self[name][0] for name in names]
            twin.update(zip(names, as_stack(block, forms), strict=True))
            twin.blocks.append(block)
        return twin


def names_by_kind(stack: Stack) -> dict[Kind, list[str]]:
    """The names of the tensors of each dtype and device, in order."""
    kinds: dict[Kind, list[str]] = {}
    for name, rows in stack.items():
        kinds.setdefault(_kind(rows), []).append(name)
    return kinds


def copy_(target: Stack, source: Stack) -> None:
    """Copies one stack into another of the same form."""
    targets, sources = side_by_side(target, source)
    torch._foreach_copy_(targets, sources)


def side_by_side(*stacks: Stack) -> list[list[Tensor]]:
    """The tensors of stacks of one form, matched: whole blocks where all have some."""
    if all(isinstance(stack, Rows) and stack.blocks for stack in stacks):
        return [list(cast(Rows, stack).blocks) for stack in stacks]
    return [list(stack.values()) for stack in stacks]


def _kind(tensor: Tensor) -> Kind:
    return tensor.dtype, tensor.device


def as_stack(block: Tensor, forms: Sequence[Tensor]) -> list[Tensor]:
    """A (K, P) block seen as L tensors (K, *shape) with these shapes and strides."""
    sizes = [form.numel() for form in forms]
    return [
        part.as_strided((len(block), *form.shape), (block.shape[1], *form.stride()))
        for part, form in zip(block.split(sizes, dim=1), forms, strict=True)
    ]
