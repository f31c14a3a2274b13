"""A transport that adds up how long its messages would take over a modelled network."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from grawa.comm.compression import Compression
from grawa.comm.protocol import TeamTransport, Transport
from grawa.lab.simulate.network import Network
from grawa.math.columns import RowFunction
from grawa.math.leaves import Leaves, Stack


class Metered:
    """A wrapper of a transport that computes the seconds its messages would take.

    A mean takes as long as the worker that sends most needs, since the others wait for it: for a
    single row with weight, that is one model, and then what others send on; for several rows,
    2(N-1)/N models, though less may be sent; with compression, the bytes that were sent. So does
    a function of all rows, which are sent to every other worker directly.

    Args:
        transport: the transport.
        network: the modelled network between its workers.
    """

    def __init__(self, transport: Transport, network: Network) -> None:
        self._transport = transport
        self._network = network
        self._seconds = 0.0
        self._teams: dict[int, list[Metered]] = {}

    @property
    def num_workers(self) -> int:
        """N."""
        return self._transport.num_workers

    @property
    def num_hosted(self) -> int:
        """K."""
        return self._transport.num_hosted

    @property
    def num_processes(self) -> int:
        """P."""
        return self._transport.num_processes

    @property
    def process(self) -> int:
        """See `Transport.process`."""
        return self._transport.process

    @property
    def arrangement(self) -> str:
        """See `Transport.arrangement`."""
        return self._transport.arrangement

    @property
    def bytes_sent(self) -> int:
        """See `Transport.bytes_sent`."""
        return self._transport.bytes_sent

    def take_seconds(self) -> float:
        """Seconds of the messages since the last call; teams communicate at the same time."""
        total, self._seconds = self._seconds, 0.0
        for teams in self._teams.values():
            total += max(team.take_seconds() for team in teams)
        return total

    def gather(self, rows: Tensor) -> Callable[[], Tensor]:
        """See `Transport.gather`."""
        self._seconds += self._network.gather_seconds(rows[0].nbytes)
        return self._transport.gather(rows)

    def hosted(self, rows: Tensor) -> Tensor:
        """See `Transport.hosted`."""
        return self._transport.hosted(rows)

    def weighted_mean(
        self,
        rows: Stack,
        weights: Tensor,
        out: Leaves | None = None,
        compression: Compression | None = None,
    ) -> Leaves:
        """See `Transport.weighted_mean`."""
        coded = compression is not None and compression.knows(rows)
        mean = self._transport.weighted_mean(rows, weights, out, compression)
        if compression is not None and coded:
            self._seconds += self._network.exchange_seconds(compression.most_bytes)
            return mean
        model = sum(row[0].nbytes for row in rows.values())
        if int(torch.count_nonzero(weights.any(dim=1))) == 1:
            self._seconds += self._network.leader_seconds(model)
        else:
            self._seconds += self._network.mean_seconds(model)
        return mean

    def reduce_rows(
        self,
        rows: Stack,
        function: RowFunction,
        active: Tensor,
        out: Leaves | None = None,
        compression: Compression | None = None,
    ) -> Leaves:
        """See `Transport.reduce_rows`."""
        coded = compression is not None and compression.knows(rows)
        found = self._transport.reduce_rows(rows, function, active, out, compression)
        if compression is not None and coded:
            self._seconds += self._network.rows_seconds(compression.most_bytes)
        else:
            self._seconds += self._network.rows_seconds(2 * self._sent_of(rows))
        return found

    def pairwise_distances(self, rows: Stack, active: Tensor) -> Tensor:
        """See `Transport.pairwise_distances`."""
        pairs = int(active.sum()) * (int(active.sum()) - 1) // 2
        self._seconds += self._network.rows_seconds(self._sent_of(rows))
        self._seconds += self._network.gather_seconds(pairs * torch.float64.itemsize)
        return self._transport.pairwise_distances(rows, active)

    def _sent_of(self, rows: Stack) -> float:
        """What a worker sends of its row, all but its own section."""
        n = self._transport.num_workers
        return (n - 1) / n * sum(row[0].nbytes for row in rows.values())

    def count(self, steps: int) -> int:
        """See `Transport.count`; its messages are not timed."""
        return self._transport.count(steps)

    def reset_count(self, steps: int) -> None:
        """See `Transport.reset_count`."""
        self._transport.reset_count(steps)

    def split(self, size: int) -> Sequence[TeamTransport]:
        """See `Transport.split`."""
        teams = self._transport.split(size)
        if size not in self._teams:
            network = self._network.team(size)
            self._teams[size] = [Metered(team.transport, network) for team in teams]
        kept = self._teams[size]
        return [team._replace(transport=own) for team, own in zip(teams, kept, strict=True)]

    def release(self) -> None:
        """See `Transport.release`."""
        self._transport.release()
