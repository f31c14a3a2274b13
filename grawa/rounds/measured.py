"""What a round measures of the workers' and the center's places, if that is asked for."""

from typing import NamedTuple

import torch
from torch import Tensor

from grawa.comm.protocol import Transport


class Measured(NamedTuple):
    """Measurements of a round, as in `RoundReport`; `None` for what is not known."""

    consensus_distance: float | None = None
    center_cosine: float | None = None
    displacement_spread: float | None = None


def measured(
    comm: Transport, active: Tensor, distances: Tensor | None, moves: Tensor | None
) -> Measured:
    """Brings the hosted workers' measurements together, in one message; collective.

    Args:
        comm: connects all workers.
        active: which of them take part in the round, (N,).
        distances: to the round's center, (K,).
        moves: from `Moves.end`, (K, 2).

    Returns:
        The measurements, the same on every process, also where a worker that has just come does
        not know the center's last move.
    """
    columns = (None if distances is None else distances.unsqueeze(1), moves)
    known = [rows for rows in columns if rows is not None]
    if not known:
        return Measured()
    rows = comm.gather(torch.cat(known, dim=1))()[active].double()
    distance = None if distances is None else float(rows[:, 0].square().mean().sqrt())
    if moves is None:
        return Measured(distance)
    displacements, cosines = rows[:, -2], rows[:, -1]
    cosines = cosines[cosines.isfinite()]
    return Measured(
        consensus_distance=distance,
        center_cosine=float(cosines[0]) if len(cosines) else None,
        displacement_spread=relative_spread(displacements),
    )


def relative_spread(lengths: Tensor) -> float | None:
    """The standard deviation of some lengths over their mean.

    Args:
        lengths: (M,), not negative.

    Returns:
        It, with M as the divisor; `None` if there are fewer than two, or all are zero.

    >>> relative_spread(torch.tensor([1.0, 3.0]))
    0.5
    """
    mean = float(lengths.mean())
    if len(lengths) < 2 or not mean > 0.0:
        return None
    return float(lengths.std(correction=0)) / mean
