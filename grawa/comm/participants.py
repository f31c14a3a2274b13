"""The communicator of one round: who takes part, and how far apart the workers are."""

from collections.abc import Sequence

import torch
from torch import Tensor

from grawa.comm.compression import Compression
from grawa.comm.protocol import Team, Transport
from grawa.math.columns import RowFunction
from grawa.math.leaves import Leaves, Stack, wide
from grawa.math.norms import Norms, row_norms


class Participants:
    """A communicator in which some workers have weight zero, whatever weight they are given.

    Args:
        transport: of all workers.
        active: (N,), true for those who take part; everyone by default.
        compression: in what means travel, if in fewer bits than they have.
        measure: whether to note the hosted workers' distances to the first mean.
        norms: takes the norms of whole workers, of which this process may hold a shard only.

    Attributes:
        distances: (K,), L2 distances of the rows to the first mean or other function of rows that
            was asked for; `None` before it, or if they are not measured.
    """

    def __init__(
        self,
        transport: Transport,
        active: Tensor | None = None,
        compression: Compression | None = None,
        *,
        measure: bool = False,
        norms: Norms = row_norms,
    ) -> None:
        self._transport = transport
        everyone = torch.ones(transport.num_workers, dtype=torch.bool)
        self._active = everyone if active is None else active.cpu() > 0
        self._compression = compression
        self._measure = measure
        self.norms = norms
        self.distances: Tensor | None = None

    @property
    def num_workers(self) -> int:
        """N, with those who are left out."""
        return self._transport.num_workers

    @property
    def active(self) -> Tensor:
        """Who takes part: (N,), bool, on the CPU."""
        return self._active

    def weighted_mean(self, rows: Stack, weights: Tensor, out: Leaves | None = None) -> Leaves:
        """See `Communicator.weighted_mean`."""
        of_active = weights.to(torch.float64) * self._active.unsqueeze(1)
        mean = self._transport.weighted_mean(rows, of_active, out, self._compression)
        self._note_distances(rows, mean)
        return mean

    def _note_distances(self, rows: Stack, mean: Leaves) -> None:
        if self._measure and self.distances is None:
            # Leaf by leaf, so that the differences never take the memory of a whole model.
            pairs = zip(rows.values(), mean.rows, strict=True)
            self.distances = self.norms(row.to(wide(row.dtype)) - leaf for row, leaf in pairs)

    def reduce_rows(self, rows: Stack, function: RowFunction, out: Leaves | None = None) -> Leaves:
        """See `Communicator.reduce_rows`."""
        own = None if self._compression is None else self._compression.of_rows(rows)
        found = self._transport.reduce_rows(rows, function, self._active, out, own)
        self._note_distances(rows, found)
        return found

    def pairwise_distances(self, rows: Stack) -> Tensor:
        """See `Communicator.pairwise_distances`."""
        found = self._transport.pairwise_distances(rows, self._active)
        # Each pair counts as a worker that consists of one number.
        device = next(iter(rows.values())).device
        dtypes = {row.dtype for row in rows.values()}
        exact = torch.float64 if torch.float64 in dtypes else torch.float32
        over_shards = self.norms([found.view(-1, 1).to(device, exact)])
        return over_shards.to("cpu", torch.float64).view_as(found)

    def split(self, size: int) -> Sequence[Team]:
        """See `Communicator.split`."""
        teams = []
        for workers, hosted, transport in self._transport.split(size):
            active = self._active[workers]
            if bool(active.any()):
                coded = self._compression
                own = None if coded is None else coded.team(size, workers.start)
                members = Participants(transport, active, own, norms=self.norms)
                teams.append(Team(workers, hosted, members))
        return teams
