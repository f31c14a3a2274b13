"""The hosted models' buffers: which have changed, and how those are averaged."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum

import torch
from torch import Tensor, nn

from grawa.comm.protocol import Communicator
from grawa.errors import UserError
from grawa.math.leaves import Rows, names_by_kind
from grawa.math.weights import uniform
from grawa.workers.stack import is_strided, stack_of, values

Gather = Callable[[Tensor], Tensor]
"""Gathers all workers' rows on every process: (K, C) -> (N, C)."""

_FLAGS = 8
"""More than there are states of a buffer: a mark is its state plus this times a hash of its form
(shape and dtype)."""

_FORM_BITS = 48  # so that float64 represents hash and state exactly

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Size of an element in bytes -> integers of that size, to compare contents bit for bit."""


class BufferState(IntEnum):
    """What a worker reports about a buffer before a round."""

    UNCHANGED = 0
    """It has the same bits as after the last round."""
    CHANGED = 1
    """It has other bits, all finite."""
    INFINITE = 2
    """Changed, with an infinite entry, as a mask may have."""
    NAN = 3
    """Changed, with a NaN."""
    ODD = 4
    """Unchanged, with an entry that is not finite."""

    @classmethod
    def changed(cls, states: Tensor) -> Tensor:
        """Which of these states, (N, B), are of buffers that have changed."""
        return (states > cls.UNCHANGED) & (states < cls.ODD)


class Buffers:
    """The persistent buffers of hosted models; those that are not in state dicts stay local.

    A buffer is sent only if it has changed on some worker since the last round, so constant masks
    and tables cost nothing. A module may assign a new tensor to a buffer at any time.

    Args:
        models: K models with the same buffers.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self._models = models
        self.names = persistent_names(models[0])
        self._rows = Rows()
        self._addresses: list[list[int]] = []
        self._seen: dict[str, Tensor] = {}

    def rows(self) -> Rows:
        """The current buffers, name -> (K, *shape), in their own dtypes; complex ones as real."""
        tables = [_buffers(model) for model in self._models]
        addresses = [[_address(table[name]) for name in self.names] for table in tables]
        if addresses != self._addresses:
            for table in tables[1:]:
                self._check_form(tables[0], table)
            self._rows = stack_of(tables, self.names)
            tables = [_buffers(model) for model in self._models]
            self._addresses = [[_address(t[name]) for name in self.names] for t in tables]
        return self._rows

    def _check_form(self, first: dict[str, Tensor], other: dict[str, Tensor]) -> None:
        for name in self.names:
            if _form(first[name]) != _form(other[name]):
                raise UserError(
                    f"buffer {name!r} has another shape or dtype on one hosted worker than on "
                    f"another: {_form(first[name])} and {_form(other[name])}"
                )

    def remember(self, names: Sequence[str] | None = None) -> None:
        """Copies the buffers' values, with which the next round compares them.

        Args:
            names: the buffers that may have changed; all by default.
        """
        rows = self.rows()
        for name in self.names if names is None else names:
            self._seen[name] = rows[name].clone()

    def marks(self, rows: Rows, device: torch.device) -> Tensor:
        """State and form of each buffer on each worker, as one number: (K, B), float64.

        Args:
            rows: the buffers, from `rows`.
            device: where to compute the marks; the host does not wait for it.

        Returns:
            The marks; equal states and forms give equal marks on every process.
        """
        marks = [self._states(name, row).to(device) + _form_mark(row) for name, row in rows.items()]
        count = len(self._models)
        return torch.stack(marks, dim=1) if marks else torch.zeros(count, 0, device=device).double()

    def _states(self, name: str, rows: Tensor) -> Tensor:
        """(K,), float64."""
        flat = rows.reshape(len(rows), -1)
        seen = self._seen.get(name)
        if seen is None or seen.shape != rows.shape or seen.dtype != rows.dtype:
            changed = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        else:
            changed = (_bits(flat) != _bits(seen.reshape(len(rows), -1))).any(dim=1)
        state = changed.to(torch.float64)
        if has_means(rows):
            infinite, nan = flat.isinf().any(dim=1), flat.isnan().any(dim=1)
            odd = torch.where(nan, float(BufferState.NAN), float(BufferState.INFINITE))
            odd = torch.where(changed, odd, float(BufferState.ODD))
            state = torch.where(infinite | nan, odd, state)
        return state

    def put(self, agreed: Mapping[str, Tensor], workers: Sequence[int] | None = None) -> None:
        """Copies new values into the buffers.

        Args:
            agreed: name -> values, (*shape), the same on every process.
            workers: hosted workers; all by default.
        """
        own = self.rows()
        for name, new in agreed.items():
            if workers is None:
                own[name].copy_(new)
            for k in workers or ():
                own[name][k].copy_(new)

    def follow(self, agreed: Mapping[str, Tensor], before: Rows) -> None:
        """Applies a round that ran in the background to buffers that have changed meanwhile.

        Floating-point buffers are moved by the round's result minus their values when it began;
        integers and booleans become the larger of the result and the current value.

        Args:
            agreed: the round's result, name -> (*shape).
            before: the buffers when it began, name -> (K, *shape).
        """
        own = self.rows()
        for name, new in agreed.items():
            live = own[name]
            if live.shape[1:] != new.shape:
                continue  # a module has replaced it meanwhile
            if not live.is_floating_point():
                live.copy_(torch.maximum(live, new) if live.dtype != torch.bool else live | new)
                continue
            moved = live + (new - before[name])
            live.copy_(torch.where(moved.isfinite(), moved, new))


def average(
    rows: Rows, states: Tensor, active: Tensor, comm: Communicator, gather: Gather
) -> dict[str, Tensor]:
    """Combines the buffers that have changed over all workers; collective.

    Args:
        rows: the hosted workers' buffers, name -> (K, *shape).
        states: all workers' states of each, (N, B).
        active: (N,), bool: which workers count.
        comm: takes means over the active workers.
        gather: gathers all workers' rows: (K, C) -> (N, C), in their dtype.

    Returns:
        New values, name -> (*shape), the same on every process; only of changed buffers.
    """
    moved = BufferState.changed(states).any(dim=0).tolist()
    changed = [name for name, has_changed in zip(rows, moved, strict=True) if has_changed]
    odd = {name for b, name in enumerate(rows) if bool((states[:, b] > BufferState.CHANGED).any())}
    plain = Rows((n, rows[n]) for n in changed if has_means(rows[n]) and n not in odd)
    agreed: dict[str, Tensor] = {}
    if plain:
        agreed.update(comm.weighted_mean(plain, uniform(comm.num_workers)))
    rest = {name: rows[name] for name in changed if name not in agreed}
    for names in names_by_kind(rest).values():
        flat = torch.cat([rest[name].reshape(len(rest[name]), -1) for name in names], dim=1)
        combined = combine(gather(flat), active)
        sizes = [rest[name][0].numel() for name in names]
        for name, part in zip(names, combined.split(sizes), strict=True):
            agreed[name] = part.view(rest[name].shape[1:]).to(rest[name].device)
    return agreed


def states_of(marks: Tensor) -> Tensor:
    """The `BufferState`s in all workers' marks: (N, B) -> (N, B)."""
    return marks.remainder(_FLAGS)


def check_forms(names: Sequence[str], marks: Tensor) -> None:
    """Refuses buffers whose shapes or dtypes differ between workers.

    Args:
        names: B buffers.
        marks: (N, B).

    Raises:
        UserError: the same on every process, with the name of the buffer and a worker.
    """
    forms = marks.div(_FLAGS, rounding_mode="floor")
    different = (forms != forms[:1]).nonzero()
    if len(different):
        worker, buffer = different[0].tolist()
        raise UserError(
            f"buffer {names[buffer]!r} has another shape or dtype on worker {worker} than on "
            "worker 0, so it can't be averaged: give it the same shape everywhere, register it "
            'with persistent=False, or use buffers="local"'
        )


def combine(everyone: Tensor, active: Tensor) -> Tensor:
    """Combines all workers' values of a buffer.

    Entries that are equal on all active workers stay as they are, also infinite ones. Other
    floating-point entries become the mean of the finite ones; integers and booleans the maximum.

    Args:
        everyone: (N, *shape).
        active: (N,), bool: which workers count.

    Returns:
        (*shape).

    >>> combine(torch.tensor([[1.0, -torch.inf], [3.0, -torch.inf]]), torch.tensor([True, True]))
    tensor([2., -inf])
    """
    rows = everyone[active.to(everyone.device)]
    if not rows.is_floating_point():
        return rows.amax(dim=0) if rows.dtype != torch.bool else rows.any(dim=0)
    wide = rows.to(torch.float64)
    finite = wide.isfinite()
    total = torch.where(finite, wide, 0.0).sum(dim=0)
    mean = torch.where(finite.any(dim=0), total / finite.sum(dim=0).clamp_min(1), wide[0])
    same = ((wide == wide[:1]) | (wide.isnan() & wide[:1].isnan())).all(dim=0)
    return torch.where(same, rows[0], mean.to(rows.dtype))


def has_means(rows: Tensor) -> bool:
    """Whether a mean can be taken: floating-point numbers of at least 16 bits."""
    return rows.is_floating_point() and rows.itemsize > 1


def persistent_names(model: nn.Module) -> list[str]:
    """The names of the buffers that a state dict has, each once; not of sparse or packed ones."""
    skipped = {
        f"{prefix}{'.' if prefix else ''}{name}"
        for prefix, module in model.named_modules()
        for name in module._non_persistent_buffers_set
    }
    return [n for n, b in model.named_buffers() if n not in skipped and is_strided(b)]


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_buffers())


def _address(buffer: Tensor) -> int:
    return values(buffer).data_ptr()


def _form(buffer: Tensor) -> str:
    return f"{tuple(buffer.shape)} {buffer.dtype}"


def _form_mark(rows: Tensor) -> float:
    """A hash of a buffer's shape and dtype, times `_FLAGS`."""
    digest = hashlib.sha256(f"{tuple(rows.shape[1:])} {rows.dtype}".encode()).digest()
    return float((int.from_bytes(digest[:8]) >> (64 - _FORM_BITS)) * _FLAGS)


def _bits(tensor: Tensor) -> Tensor:
    """The same memory as integers."""
    return tensor.contiguous().view(_BITS[tensor.itemsize])
