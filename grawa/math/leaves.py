"""The containers that methods work on: stacks of the workers' rows, and leaves common to all."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple, cast

import torch
from torch import Tensor

Stack = Mapping[str, Tensor]
"""Parameter name -> (K, *shape): one row for each worker hosted by this process."""

Kind = tuple[torch.dtype, torch.device]
"""Dtype and device; tensors with the same kind can be in one block of memory."""


class Place(NamedTuple):
    """Where a leaf is: the index of its flat tensor, the offset in elements, shape and strides."""

    flat: int
    offset: int
    shape: torch.Size
    stride: tuple[int, ...]


class Form(NamedTuple):
    """Where leaves begin and end in their flat tensors."""

    flats: tuple[tuple[int, int], ...]
    """Elements of each flat tensor, and bytes of each element."""
    leaves: tuple[tuple[int, int, int], ...]
    """Flat tensor, offset and size of each leaf."""


class Leaves(dict[str, Tensor]):
    """Parameter name -> tensor of the parameter's shape; the same on every process.

    The tensors are views of one flat tensor per dtype and device, so that arithmetic and messages
    need not go tensor by tensor. Change the tensors in place only; never add or replace one.

    Args:
        flats: one flat tensor per dtype and device.
        places: where each leaf is in them.

    Attributes:
        rows: the leaves in order, each viewed as a stack of one row, (1, *shape).
    """

    def __init__(self, flats: Sequence[Tensor], places: Mapping[str, Place]) -> None:
        super().__init__(
            (name, flats[place.flat].as_strided(place.shape, place.stride, place.offset))
            for name, place in places.items()
        )
        self.flats = list(flats)
        self.places = dict(places)
        self.rows = [leaf.unsqueeze(0) for leaf in self.values()]

    @cached_property
    def form(self) -> Form:
        """How the leaves lie in the flat tensors: equal for leaves that lie in the same way."""
        flats = tuple((flat.numel(), flat.element_size()) for flat in self.flats)
        places = tuple((p.flat, p.offset, p.shape.numel()) for p in self.places.values())
        return Form(flats, places)

    @classmethod
    def like(cls, stack: Stack) -> "Leaves":
        """Uninitialised leaves with the names and shapes of a stack's rows.

        Args:
            stack: name -> (K, *shape).

        Returns:
            Leaves with the rows' dtypes and devices, and their strides if a row is dense.
        """
        sizes: dict[Kind, int] = {}
        places: dict[str, Place] = {}
        for name, rows in stack.items():
            kind = _kind(rows)
            offset = sizes.setdefault(kind, 0)
            row = rows[0]
            # The strides of a row with gaps or overlaps would reach beyond its place.
            stride = torch.empty_like(row, device="meta").stride()
            places[name] = Place(list(sizes).index(kind), offset, row.shape, stride)
            sizes[kind] += row.numel()
        flats = [torch.empty(size, dtype=d, device=at) for (d, at), size in sizes.items()]
        return cls(flats, places)

    @classmethod
    def copy_of(cls, stack: Stack, row: int = 0) -> "Leaves":
        """Leaves that hold a copy of one row of a stack."""
        leaves = cls.like(stack)
        torch._foreach_copy_(list(leaves.values()), [rows[row] for rows in stack.values()])
        return leaves

    def zeros_like(self) -> "Leaves":
        """New leaves with the same names, shapes and dtypes, all zero."""
        return Leaves([torch.zeros_like(flat) for flat in self.flats], self.places)

    def wide_like(self) -> "Leaves":
        """New uninitialised leaves at the same places, with float32 in place of 16-bit dtypes."""
        flats = [torch.empty_like(flat, dtype=wide(flat.dtype)) for flat in self.flats]
        return Leaves(flats, self.places)

    def clone(self) -> "Leaves":
        """New leaves with the same values."""
        return Leaves([flat.clone() for flat in self.flats], self.places)

    def widened(self) -> "Leaves":
        """New leaves with the same values and places, 16-bit ones in float32."""
        wide = self.wide_like()
        torch._foreach_copy_(wide.flats, self.flats)
        return wide

    def as_wide_as(self, other: "Leaves") -> "Leaves":
        """The same values in the dtypes of others at the same places; copied where these differ."""
        pairs = zip(self.flats, other.flats, strict=True)
        return Leaves([flat.to(its.dtype) for flat, its in pairs], self.places)

    @classmethod
    def joined(cls, parts: Sequence["Leaves"]) -> "Leaves":
        """Leaves of several parts as one, in the same memory."""
        flats: list[Tensor] = []
        places: dict[str, Place] = {}
        for part in parts:
            shift = len(flats)
            places.update((n, p._replace(flat=p.flat + shift)) for n, p in part.places.items())
            flats += part.flats
        return cls(flats, places)


class Rows(dict[str, Tensor]):
    """A stack whose tensors may be views of a few large blocks.

    Attributes:
        blocks: one (K, P) tensor per dtype and device, in the order of the flat tensors of
            `Leaves`; empty if the tensors are separate in memory, as a single model's are.
        lost: rounding errors of small moves of 16-bit rows, in float32, which are added to the
            next move: see `grawa.math.motion.pull_`; empty if they are not kept.
    """

    def __init__(self, *entries: Iterable[tuple[str, Tensor]]) -> None:
        super().__init__(*entries)
        self.blocks: list[Tensor] = []
        self.lost: dict[str, Tensor] = {}

    @classmethod
    def joined(cls, parts: Sequence["Rows"]) -> "Rows":
        """Rows of several parts as one, in the same memory."""
        whole = cls(entry for part in parts for entry in part.items())
        whole.blocks = [block for part in parts for block in part.blocks]
        whole.lost = {name: rows for part in parts for name, rows in part.lost.items()}
        return whole

    def part(self, names: Sequence[str]) -> "Rows":
        """Some of the rows, as views.

        Args:
            names: of the rows; if there are blocks, they must be adjacent in them.

        Returns:
            Rows with the matching parts of the blocks.
        """
        part = Rows((name, self[name]) for name in names)
        for block in self.blocks:
            same_kind = [r for r in part.values() if _kind(r) == _kind(block) and r.numel()]
            if same_kind:  # a tensor without elements has no address
                start = (same_kind[0].data_ptr() - block.data_ptr()) // block.element_size()
                stop = start + sum(rows[0].numel() for rows in same_kind)
                part.blocks.append(block[:, start:stop])
            elif any(_kind(rows) == _kind(block) for rows in part.values()):
                part.blocks.append(block[:, :0])
        return part

    def worker(self, k: int) -> "Rows":
        """One hosted worker's row, as views: name -> (1, *shape)."""
        row = Rows((name, rows[k : k + 1]) for name, rows in self.items())
        row.blocks = [block[k : k + 1] for block in self.blocks]
        row.lost = {name: rows[k : k + 1] for name, rows in self.lost.items()}
        return row

    def twin(self) -> "Rows":
        """Uninitialised rows with the same names and shapes, in new blocks."""
        twin = Rows(self.items())
        for (dtype, device), names in names_by_kind(self).items():
            sizes = [self[name][0].numel() for name in names]
            block = torch.empty(len(self[names[0]]), sum(sizes), dtype=dtype, device=device)
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
    """Copies one stack into another with the same names and shapes."""
    targets, sources = side_by_side(target, source)
    torch._foreach_copy_(targets, sources)


def copied(rows: Rows) -> Rows:
    """A copy of some rows."""
    copy = rows.twin()
    if rows:
        copy_(copy, rows)
    return copy


def side_by_side(*stacks: Stack) -> list[list[Tensor]]:
    """The tensors of stacks with the same names and shapes; whole blocks if all have them."""
    if all(isinstance(stack, Rows) and stack.blocks for stack in stacks):
        return [list(cast(Rows, stack).blocks) for stack in stacks]
    return [list(stack.values()) for stack in stacks]


def batches(sizes: Sequence[int], most: int) -> list[slice]:
    """Neighbouring tensors, as many at a time as have at most so many elements together.

    Args:
        sizes: elements of each tensor.
        most: elements of a batch; a larger tensor is a batch of its own.

    Returns:
        Slices that cover all tensors.

    >>> batches([3, 3, 9, 1, 2], 6)
    [slice(0, 2, None), slice(2, 3, None), slice(3, 5, None)]
    """
    starts: list[int] = []
    room = 0
    for i, size in enumerate(sizes):
        if size > room or not starts:
            starts.append(i)
            room = most
        room -= size
    return [slice(a, b) for a, b in pairwise([*starts, len(sizes)])]


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which values of a dtype are summed: at least float32."""
    return torch.float32 if dtype.itemsize < torch.float32.itemsize else dtype


def _kind(tensor: Tensor) -> Kind:
    return tensor.dtype, tensor.device


def as_stack(block: Tensor, forms: Sequence[Tensor]) -> list[Tensor]:
    """A (K, P) block viewed as L tensors (K, *shape), with the shapes and strides of `forms`."""
    sizes = [form.numel() for form in forms]
    return [
        part.as_strided((len(block), *form.shape), (block.shape[1], *form.stride()))
        for part, form in zip(block.split(sizes, dim=1), forms, strict=True)
    ]
