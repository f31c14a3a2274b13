"""The communicator of one round: who takes part, and how far apart the workers are."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.linalg import vector_norm

from grawa.comm.protocol import Communicator, Team
from grawa.math.leaves import Leaves, Stack


class Participants:
    """A communicator in which some workers have weight zero, whatever weight they are given.

    Args:
        comm: the communicator of all workers.
        active: (N,), true for those who take part.
        measure: whether to note the hosted workers' distances to the first mean.

    Attributes:
        distances: (K,), L2 distances of the rows to the first mean that was asked for; `None`
            before it, or if they are not measured.
    """

    def __init__(self, comm: Communicator, active: Tensor, *, measure: bool = False) -> None:
        self._comm = comm
        self._active = active.to(torch.float64).unsqueeze(1)
        self._measure = measure
        self.distances: Tensor | None = None

    @property
    def num_workers(self) -> int:
        """N, with those who are left out."""
        return self._comm.num_workers

    @property
    def active(self) -> Tensor:
        """(N,), true for the workers that take part."""
        return self._active[:, 0] > 0.0

    @property
    def num_hosted(self) -> int:
        """K."""
        return self._comm.num_hosted

    @property
    def num_processes(self) -> int:
        """P."""
        return self._comm.num_processes

    @property
    def process(self) -> int:
        """See `Communicator.process`."""
        return self._comm.process

    @property
    def bytes_sent(self) -> int:
        """See `Communicator.bytes_sent`."""
        return self._comm.bytes_sent

    def allocate(self, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """See `Communicator.allocate`."""
        return self._comm.allocate(size, dtype, device)

    def gather(self, rows: Tensor) -> Callable[[], Tensor]:
        """See `Communicator.gather`."""
        return self._comm.gather(rows)

    def hosted(self, rows: Tensor) -> Tensor:
        """See `Communicator.hosted`."""
        return self._comm.hosted(rows)

    def weighted_mean(self, rows: Stack, weights: Tensor, out: Leaves | None = None) -> Leaves:
        """See `Communicator.weighted_mean`; over those who take part."""
        mean = self._comm.weighted_mean(rows, weights * self._active, out)
        if self._measure and self.distances is None:
            self.distances = distances_to(rows, mean)
        return mean

    def exchange(
        self, outgoing: Sequence[Tensor], incoming: Sequence[Tensor], sent: int, most: int
    ) -> None:
        """See `Communicator.exchange`."""
        self._comm.exchange(outgoing, incoming, sent, most)

    def count(self, steps: int) -> int:
        """See `Communicator.count`."""
        return self._comm.count(steps)

    def split(self, size: int) -> Sequence[Team]:
        """See `Communicator.split`; without teams of which nobody takes part."""
        return [
            team._replace(comm=Participants(team.comm, self._active[team.workers, 0] > 0))
            for team in self._comm.split(size)
            if bool(self._active[team.workers].any())
        ]


def distances_to(rows: Stack, target: Leaves) -> Tensor:
    """L2 distance of each row to the target, over all leaves.

    Args:
        rows: name -> (K, *shape).
        target: name -> shape.

    Returns:
        (K,), on the first leaf's device.
    """
    # Leaf by leaf, so that the differences never take the memory of a whole model.
    leaves = zip(rows.values(), target.rows, strict=True)
    norms = [vector_norm((row - leaf).reshape(len(row), -1), dim=1) for row, leaf in leaves]
    total: Tensor = vector_norm(torch.stack([norm.to(norms[0]) for norm in norms]), dim=0)
    return total
