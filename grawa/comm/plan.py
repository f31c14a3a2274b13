"""Who averages which part of the model: the plan of the exchange behind a weighted mean.

The mean is made in two phases. Each flat tensor is cut into P equal sections, one per process.
First every process sends each section's owner its own values, straight from the parameters, and
the owner takes the weighted mean; then every owner sends its section of the mean to all. A
process sends (P-1)/P of the model in each phase, as in a ring all-reduce, but nothing is packed
or scaled on the way, a row with weight zero is not even sent, and what has arrived waits in the
sections of the result that are not yet in use.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from torch import Tensor

from grawa.math.leaves import Leaves


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The part of one leaf that lies in one section."""

    leaf: int
    flat: int
    start: int
    """Where it starts in its flat tensor, in elements."""
    size: int
    itemsize: int

    @property
    def stop(self) -> int:
        """Where it ends in its flat tensor."""
        return self.start + self.size

    @property
    def num_bytes(self) -> int:
        """Its size in bytes."""
        return self.size * self.itemsize


@dataclass(frozen=True)
class Plan:
    """The pieces of each process's sections, and the sections' sizes in bytes."""

    pieces: tuple[tuple[Piece, ...], ...]
    section_bytes: int

    def bytes_sent(self, process: int, masses: Sequence[Sequence[float]]) -> int:
        """Bytes that a process sends for one mean.

        Args:
            process: which.
            masses: (P, L), each process's weight of each leaf.

        Returns:
            The bytes of both phases.
        """
        rows = sum(
            piece.num_bytes
            for owner, pieces in enumerate(self.pieces)
            if owner != process
            for piece in pieces
            if masses[process][piece.leaf] > 0
        )
        return rows + (len(self.pieces) - 1) * self.section_bytes

    def bytes_sent_by_all(self, masses: Sequence[Sequence[float]]) -> int:
        """The sum of `bytes_sent` over all processes, in one pass over the pieces."""
        processes = len(self.pieces)
        senders = [sum(m > 0 for m in column) for column in zip(*masses, strict=True)]
        rows: int = sum(
            piece.num_bytes * (senders[piece.leaf] - (masses[owner][piece.leaf] > 0))
            for owner, pieces in enumerate(self.pieces)
            for piece in pieces
        )
        return rows + processes * (processes - 1) * self.section_bytes


def plan_of(leaves: Leaves, num_processes: int) -> Plan:
    """The plan for leaves whose flat tensors are cut into equal sections, the last one padded.

    Returns:
        The same plan for leaves of the same form.
    """
    sizes = tuple(
        (-(-flat.numel() // num_processes) * num_processes, flat.element_size())
        for flat in leaves.flats
    )
    places = tuple(
        (place.flat, place.offset, place.shape.numel()) for place in leaves.places.values()
    )
    return _plan(places, sizes, num_processes)


@lru_cache(maxsize=32)
def _plan(
    places: tuple[tuple[int, int, int], ...], sizes: tuple[tuple[int, int], ...], processes: int
) -> Plan:
    pieces: list[list[Piece]] = [[] for _ in range(processes)]
    for leaf, (flat, offset, numel) in enumerate(places):
        size, itemsize = sizes[flat]
        section = max(size // processes, 1)
        start = offset
        while start < offset + numel:
            owner = start // section
            stop = min(offset + numel, (owner + 1) * section)
            pieces[owner].append(
                Piece(
                    leaf=leaf,
                    flat=flat,
                    start=start,
                    size=stop - start,
                    itemsize=itemsize,
                )
            )
            start = stop
    total = sum(size // processes * itemsize for size, itemsize in sizes)
    return Plan(tuple(tuple(p) for p in pieces), total)


class Run(NamedTuple):
    """Neighbouring pieces, sent as one message."""

    flat: int
    start: int
    stop: int


def runs(pieces: Sequence[Piece], masses: Sequence[float]) -> list[Run]:
    """Joins pieces that lie side by side, without those that are not sent.

    Args:
        pieces: of one section.
        masses: (L,), the sender's weight of each leaf; what has none is not sent.

    Returns:
        As few runs as possible; the same for sender and receiver.
    """
    joined: list[Run] = []
    for piece in pieces:
        if masses[piece.leaf] <= 0:
            continue
        if joined and (joined[-1].flat, joined[-1].stop) == (piece.flat, piece.start):
            joined[-1] = joined[-1]._replace(stop=piece.stop)
        else:
            joined.append(Run(piece.flat, piece.start, piece.stop))
    return joined


def section(flat: Tensor, process: int, num_processes: int) -> Tensor:
    """The part of a flat tensor that a process owns, as a view."""
    size = flat.numel() // num_processes
    return flat[process * size : (process + 1) * size]
