"""What one process sends, gets and owns in a mean."""

from dataclasses import dataclass
from functools import lru_cache

from grawa.comm.plan import Piece, Run, plan_of, runs_of, weighty
from grawa.math.leaves import Form


@dataclass(frozen=True, eq=False)
class Route:
    """What one process sends, gets and owns in a mean: see `grawa.comm.plan`."""

    receivers: list[int]
    """The processes that own sections and get the mean."""
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


@lru_cache(maxsize=64)
def route_of(
    form: Form, weighs: tuple[tuple[bool, ...], ...], num_hosted: int, process: int
) -> Route:
    """The route of a process, made once for each pattern of zero weights.

    Args:
        form: how the leaves lie in their flat tensors.
        weighs: (P, L), whether each process has weight in each leaf.
        num_hosted: K.
        process: which process.

    Returns:
        The same object for the same arguments, so that rounds need no loop over leaves.
    """
    processes = range(len(weighs))
    heavy = [p for p in processes if any(weighs[p])]
    receivers = [p for p in processes if heavy != [p]]
    sections = iter(plan_of(form, len(receivers) * num_hosted).sections)
    owned = [
        [piece for _ in range(num_hosted) for piece in next(sections)] if p in receivers else []
        for p in processes
    ]
    mine, others = owned[process], [p != process for p in processes]
    sends = [weighty(owned[p], weighs[process]) if others[p] else [] for p in processes]
    return Route(
        receivers=receivers,
        sections=[runs_of(own) for own in owned],
        owned=mine,
        heavy=weighty(mine, weighs[process]),
        sent=[piece for own in sends for piece in own],
        leaving=[runs_of(own) for own in sends],
        arriving=[runs_of(weighty(mine, weighs[p])) if others[p] else [] for p in processes],
    )
