"""What has happened to buffers since the last round; a few operations, however many there are."""

from collections.abc import Sequence
from enum import IntEnum
from functools import lru_cache

import torch
from torch import Tensor

from grawa.math.digest import bits_of
from grawa.math.leaves import Rows, names_by_kind


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


class Changes:
    """Compares the hosted workers' buffers with their values after the last round."""

    def __init__(self) -> None:
        self._seen: dict[str, Tensor] = {}

    def remember(self, rows: Rows) -> None:
        """Copies the values of these buffers, name -> (K, *shape)."""
        for names in names_by_kind(rows).values():
            copies = joined([rows[name] for name in names])
            for name, part in zip(names, split(copies, [rows[n] for n in names]), strict=True):
                self._seen[name] = part

    def forget(self, names: Sequence[str]) -> None:
        """Lets these buffers count as changed."""
        for name in names:
            self._seen.pop(name, None)

    def states(self, rows: Rows, device: torch.device) -> Tensor:
        """The `BufferState` of each buffer on each worker.

        Args:
            rows: the B buffers, name -> (K, *shape).
            device: where the states are put; the host does not wait for it.

        Returns:
            (K, B), float32.
        """
        columns: dict[str, Tensor] = {}
        for names in names_by_kind(rows).values():
            found = self._states(names, [rows[name] for name in names])
            columns.update(zip(names, found.to(device).unbind(dim=1), strict=True))
        return torch.stack([columns[name] for name in rows], dim=1)

    def _states(self, names: Sequence[str], rows: Sequence[Tensor]) -> Tensor:
        """Of buffers of one dtype and device: (K, B)."""
        now = joined(rows)
        bits = bits_of(now)
        before = [
            bits_of(self._seen[name]) if self._fits(name, row) else ~bits_of(row)
            for name, row in zip(names, rows, strict=True)
        ]
        told = [bits != joined(before)]
        if has_means(now):
            told += [now.isinf(), now.isnan()]
        index = _index(tuple(row[0].numel() for row in rows), now.device)
        flags = torch.stack(told).to(torch.float32)
        found = flags.new_zeros(*flags.shape[:2], len(rows))
        found.scatter_reduce_(2, index.expand_as(flags), flags, "amax")
        if len(told) == 1:
            return found[0]
        changed, infinite, nan = found
        state = torch.where(nan > 0, float(BufferState.NAN), float(BufferState.INFINITE))
        state = torch.where(changed > 0, state, float(BufferState.ODD))
        return torch.where(infinite + nan > 0, state, changed)

    def _fits(self, name: str, row: Tensor) -> bool:
        seen = self._seen.get(name)
        return seen is not None and (seen.shape, seen.dtype, seen.device) == (
            row.shape,
            row.dtype,
            row.device,
        )


def joined(rows: Sequence[Tensor]) -> Tensor:
    """A copy of some stacks of one kind, side by side: (K, *shape) each -> (K, C)."""
    return torch.cat([row.reshape(len(row), -1) for row in rows], dim=1)


def split(together: Tensor, forms: Sequence[Tensor]) -> list[Tensor]:
    """Views of what `joined` returned, or of a row of it.

    Args:
        together: (K, C) or (C,).
        forms: the stacks that were joined, (K, *shape) each.

    Returns:
        (K, *shape) or (*shape) each.
    """
    parts = together.split([form[0].numel() for form in forms], dim=-1)
    lead = together.shape[:-1]
    return [part.view((*lead, *form.shape[1:])) for part, form in zip(parts, forms, strict=True)]


def has_means(rows: Tensor) -> bool:
    """Whether a mean can be taken: floating-point numbers of at least 16 bits."""
    return rows.is_floating_point() and rows.itemsize > 1


@lru_cache(maxsize=8)  # buffers may grow at every step
def _index(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """To which buffer each element belongs, (C,); kept, since the host waits for the copy."""
    buffers = torch.arange(len(sizes), device="cpu")
    return buffers.repeat_interleave(torch.tensor(sizes, device="cpu")).to(device)
