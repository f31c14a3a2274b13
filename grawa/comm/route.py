"""What one process sends, gets and owns in a mean."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from grawa.comm.plan import Piece, Run, plan_of, runs_of, weighty
from grawa.math.leaves import Form, batches

Weighs = tuple[tuple[bool, ...], ...]
"""(P, L), whether each process has weight in each leaf."""


@dataclass(frozen=True, eq=False)
class Route:
    """What one process sends, gets and owns in a chunk of a mean: see `grawa.comm.plan`.

    Large models are exchanged in chunks, one after another. A chunk has a part of every owner's
    section. Pieces and runs are in the flat tensors of the chunk, which `of` gives.
    """

    bounds: list[Run]
    """Where the flat tensors of the chunk lie in those of the leaves."""
    sections: list[list[Run]]
    """What each process owns."""
    owned: list[Piece]
    """What this one owns."""
    heavy: list[Piece]
    """Those of its pieces in which it has weight itself."""
    sent: list[Piece]
    """What it sends to owners, in the order of `leaving`."""
    leaving: list[list[Run]]
    """The same, by receiver."""
    arriving: list[list[Run]]
    """What it gets as an owner, by sender."""

    def of(self, flats: Sequence[Tensor]) -> list[Tensor]:
        """The chunk of flat tensors."""
        return [run.of(flats) for run in self.bounds]


@lru_cache(maxsize=64)
def routes_of(
    form: Form,
    weighs: Weighs,
    owners: tuple[int, ...],
    num_hosted: int,
    process: int,
    most_bytes: int | None,
) -> tuple[Route, ...]:
    """The routes of a process, one for each chunk.

    They are made once for each pattern of zero weights.

    Args:
        form: how the leaves lie in their flat tensors.
        weighs: see `Weighs`.
        owners: the processes that own sections.
        num_hosted: K, sections of each owner.
        process: which process.
        most_bytes: of a chunk; `None` for one chunk.

    Returns:
        The same object for the same arguments, so that rounds need no loop over leaves.
    """
    processes = range(len(weighs))
    sections = iter(plan_of(form, len(owners) * num_hosted).sections)
    owned = [
        [piece for _ in range(num_hosted) for piece in next(sections)] if p in owners else []
        for p in processes
    ]
    room = None if most_bytes is None else max(1, most_bytes // len(owners))
    cut = [_cut(own, form, room) for own in owned]
    chunks = max(len(own) for own in cut)
    routes = (
        _route([own[c] if c < len(own) else [] for own in cut], weighs, process)
        for c in range(chunks)
    )
    return tuple(route for route in routes if route.bounds)


def _cut(pieces: Sequence[Piece], form: Form, most_bytes: int | None) -> list[list[Piece]]:
    """A section's pieces by chunks."""
    if most_bytes is None:
        return [list(pieces)]
    sizes = [piece.size * form.flats[piece.flat][1] for piece in pieces]
    return [list(pieces[some]) for some in batches(sizes, most_bytes)] or [[]]


def _route(owned: Sequence[Sequence[Piece]], weighs: Weighs, process: int) -> Route:
    bounds: list[Run] = []
    placed: list[list[Piece]] = []
    for pieces in owned:
        placed.append([])
        found = iter(pieces)
        for run in runs_of(pieces):
            for piece in (next(found) for _ in run.sizes):
                start = piece.start - run.start
                placed[-1].append(piece._replace(flat=len(bounds), start=start))
            bounds.append(run)
    mine, others = placed[process], [p != process for p in range(len(weighs))]
    sends = [weighty(own, weighs[process]) if others[p] else [] for p, own in enumerate(placed)]
    return Route(
        bounds=bounds,
        sections=[runs_of(own) for own in placed],
        owned=mine,
        heavy=weighty(mine, weighs[process]),
        sent=[piece for own in sends for piece in own],
        leaving=[runs_of(own) for own in sends],
        arriving=[runs_of(weighty(mine, w)) if others[p] else [] for p, w in enumerate(weighs)],
    )
