"""The communicator of one round: who takes part, and how far apart the workers are."""

from collections.abc import Sequence

import torch
from torch import Tensor

from grawa.comm.compression import Compression
from grawa.comm.protocol import Team, Transport
from grawa.errors import UserError
from grawa.math.columns import RowFunction
from grawa.math.leaves import Leaves, Stack, wide
from grawa.math.norms import Norms, norms_over_shards, row_norms, tensor_distances
from grawa.math.weights import uniform


class Participants:
    """A communicator in which some workers have weight zero, whatever weight they are given.

    Args:
        transport: of all workers.
        active: (N,), true for those who take part; everyone by default.
        compression: in what means travel, if in fewer bits than they have.
        amounts: (N,), by which weights are multiplied, such as steps; not negative. Where the
            products of all who take part are zero, the weights stay as they are.
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
        amounts: Tensor | None = None,
        *,
        measure: bool = False,
        norms: Norms = row_norms,
    ) -> None:
        self._transport = transport
        everyone = torch.ones(transport.num_workers, dtype=torch.bool)
        self._active = everyone if active is None else active.cpu() > 0
        self._compression, self._amounts = compression, amounts
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

    @property
    def shares(self) -> Tensor:
        """See `Communicator.shares`."""
        counted = self._counted(uniform(self.num_workers))[:, 0]
        return counted / counted.sum()

    def _counted(self, weights: Tensor) -> Tensor:
        """Weights as they count: zero for those who are left out."""
        of_active = weights.to(torch.float64) * self._active.unsqueeze(1)
        if self._amounts is None:
            return of_active
        counted = of_active * self._amounts.unsqueeze(1)
        return torch.where(counted.sum(dim=0) > 0.0, counted, of_active)

    def reported(self, weights: Tensor | None) -> Tensor | None:
        """The weights of a method as they have counted.

        Args:
            weights: (N, G), or `None` if it has none.

        Returns:
            (N, G), columns sum to 1; `None` if workers counted equally.
        """
        if self._amounts is None:
            return weights
        counted = self._counted(uniform(self.num_workers) if weights is None else weights)
        return counted / counted.sum(dim=0)

    def weighted_mean(self, rows: Stack, weights: Tensor, out: Leaves | None = None) -> Leaves:
        """See `Communicator.weighted_mean`."""
        counted = self._counted(weights)
        mean = self._transport.weighted_mean(rows, counted, out, self._compression)
        self._note_distances(rows, mean)
        return mean

    def _note_distances(self, rows: Stack, mean: Leaves) -> None:
        if self._measure and self.distances is None:
            # Leaf by leaf, so that the differences never take the memory of a whole model.
            pairs = zip(rows.values(), mean.rows, strict=True)
            self.distances = self.norms(row.to(wide(row.dtype)) - leaf for row, leaf in pairs)

    def reduce_rows(self, rows: Stack, function: RowFunction, out: Leaves | None = None) -> Leaves:
        """See `Communicator.reduce_rows`."""
        if self._amounts is not None:
            raise UserError("weigh_by weights a mean, and this method takes none of its workers")
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

    def leaf_distances(self, leaves: Leaves, others: Leaves) -> Tensor:
        """See `Communicator.leaf_distances`."""
        rows = dict(zip(leaves, leaves.rows, strict=True))
        own = norms_over_shards(tensor_distances(rows, others), self.norms)
        everyone = self._transport.gather(own.repeat(self._transport.num_hosted, 1))()
        return everyone[int(self._active.nonzero()[0])].double()

    def split(self, size: int) -> Sequence[Team]:
        """See `Communicator.split`."""
        teams = []
        for workers, hosted, transport in self._transport.split(size):
            active = self._active[workers]
            if bool(active.any()):
                coded = self._compression
                own = None if coded is None else coded.team(size, workers.start)
                amounts = None if self._amounts is None else self._amounts[workers]
                members = Participants(transport, active, own, amounts, norms=self.norms)
                teams.append(Team(workers, hosted, members))
        return teams
