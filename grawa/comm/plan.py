"""Who averages which part of the model: the plan of the exchange behind a weighted mean.

The mean is made in two phases. Each flat tensor is cut into sections, each of which has an owner
among the processes. First every process sends each section's owner its own values, and the owner
takes the weighted mean; then every owner sends its section of the mean to all. A process sends
(P-1)/P of the model in each phase, as in a ring all-reduce, but a row with weight zero is not even
sent. Where one process alone has weight, the others own everything: it sends the model once, and
gets nothing back.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from torch import Tensor

from grawa.math.leaves import Form
from grawa.math.mean import CACHED


class Piece(NamedTuple):
    """A part of one leaf in one section, of at most `CACHED` elements."""

    leaf: int
    flat: int
    start: int
    """Where it starts in its flat tensor, in elements."""
    offset: int
    """Where it starts in its leaf."""
    size: int

    @property
    def stop(self) -> int:
        """Where it ends in its flat tensor."""
        return self.start + self.size

    def of(self, flats: Sequence[Tensor]) -> Tensor:
        """This part of flat tensors."""
        return flats[self.flat][self.start : self.stop]


class Run(NamedTuple):
    """Neighbouring pieces of a flat tensor, moved as one."""

    flat: int
    start: int
    stop: int
    sizes: tuple[int, ...]
    """Of the pieces, in elements."""

    def of(self, flats: Sequence[Tensor]) -> Tensor:
        """This part of flat tensors."""
        return flats[self.flat][self.start : self.stop]


@dataclass(frozen=True, eq=False)
class Plan:
    """The pieces of each section, in the order of the flat tensors."""

    sections: tuple[tuple[Piece, ...], ...]
    itemsizes: tuple[int, ...]
    """Bytes of an element of each flat tensor."""

    def bytes_sent_by_all(self, masses: Sequence[Sequence[float]]) -> int:
        """Bytes that the owners of one section each send for one mean, all together.

        Args:
            masses: (S, L), each owner's weight of each leaf.

        Returns:
            The bytes of both phases.
        """
        return self.bytes_of_rows(masses) + self.bytes_of_sections()

    def bytes_of_rows(self, masses: Sequence[Sequence[float]]) -> int:
        """As `bytes_sent_by_all`, for the first phase."""
        senders = [sum(m > 0 for m in column) for column in zip(*masses, strict=True)]
        return sum(
            self._bytes(piece) * (senders[piece.leaf] - (masses[owner][piece.leaf] > 0))
            for owner, pieces in enumerate(self.sections)
            for piece in pieces
        )

    def bytes_of_sections(self) -> int:
        """As `bytes_sent_by_all`, for the second phase."""
        own = sum(self._bytes(piece) for pieces in self.sections for piece in pieces)
        return own * (len(self.sections) - 1)

    def _bytes(self, piece: Piece) -> int:
        return piece.size * self.itemsizes[piece.flat]


@lru_cache(maxsize=64)
def plan_of(form: Form, num_sections: int) -> Plan:
    """The plan for leaves.

    Args:
        form: how they lie in their flat tensors.
        num_sections: S; each is ceil(size / S) elements of a flat tensor, the last ones shorter
            or empty.

    Returns:
        The plan.
    """
    pieces: list[list[Piece]] = [[] for _ in range(num_sections)]
    for leaf, (flat, begin, numel) in enumerate(form.leaves):
        length = max(1, -(-form.flats[flat][0] // num_sections))
        start = begin
        while start < begin + numel:
            owner = start // length
            stop = min(begin + numel, (owner + 1) * length, start + CACHED)
            pieces[owner].append(Piece(leaf, flat, start, start - begin, stop - start))
            start = stop
    ordered = tuple(tuple(sorted(own, key=lambda p: (p.flat, p.start))) for own in pieces)
    return Plan(ordered, tuple(itemsize for _, itemsize in form.flats))


def runs_of(pieces: Sequence[Piece]) -> list[Run]:
    """Joins pieces that lie side by side.

    Args:
        pieces: in the order of the flat tensors.

    Returns:
        As few runs as possible; the same for sender and receiver.
    """
    joined: list[list[Piece]] = []
    for piece in pieces:
        if joined and (joined[-1][-1].flat, joined[-1][-1].stop) == (piece.flat, piece.start):
            joined[-1].append(piece)
        else:
            joined.append([piece])
    return [
        Run(own[0].flat, own[0].start, own[-1].stop, tuple(p.size for p in own)) for own in joined
    ]


def weighty(pieces: Sequence[Piece], masses: Sequence[float]) -> list[Piece]:
    """The pieces of leaves in which somebody has weight; nobody sends the others.

    Args:
        pieces: such as those of one section.
        masses: (L,), the sender's weight of each leaf.

    Returns:
        In the same order.
    """
    return [piece for piece in pieces if masses[piece.leaf] > 0]
