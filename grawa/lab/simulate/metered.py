"""A communicator that adds up how long its messages would take over a modelled network."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from grawa.comm.protocol import Communicator, Team
from grawa.lab.simulate.network import Network
from grawa.math.leaves import Leaves, Stack


class Metered:
    """All traffic of a communicator, and the seconds that it would have taken.

    Means are costed by the bytes of the worker that sends most, which the others wait for: that of
    a single row takes as long as that of all, though less is sent; that of compressed ones less.

    Args:
        comm: what talks.
        network: between its workers.
    """

    def __init__(self, comm: Communicator, network: Network) -> None:
        self._comm = comm
        self._network = network
        self._seconds = 0.0
        self._teams: dict[int, list[Metered]] = {}

    @property
    def num_workers(self) -> int:
        """N."""
        return self._comm.num_workers

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

    def take_seconds(self) -> float:
        """What messages would have taken since the last call; teams talk at the same time."""
        taken, self._seconds = self._seconds, 0.0
        for teams in self._teams.values():
            taken += max(team.take_seconds() for team in teams)
        return taken

    def allocate(self, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """See `Communicator.allocate`."""
        return self._comm.allocate(size, dtype, device)

    def gather(self, rows: Tensor) -> Callable[[], Tensor]:
        """See `Communicator.gather`; rows travel as float64."""
        self._seconds += self._network.gather_seconds(rows[0].numel() * 8)
        return self._comm.gather(rows)

    def hosted(self, rows: Tensor) -> Tensor:
        """See `Communicator.hosted`."""
        return self._comm.hosted(rows)

    def weighted_mean(self, rows: Stack, weights: Tensor, out: Leaves | None = None) -> Leaves:
        """See `Communicator.weighted_mean`."""
        self._seconds += self._network.mean_seconds(sum(x[0].nbytes for x in rows.values()))
        return self._comm.weighted_mean(rows, weights, out)

    def exchange(
        self, outgoing: Sequence[Tensor], incoming: Sequence[Tensor], sent: int, most: int
    ) -> None:
        """See `Communicator.exchange`; one of the two phases of a mean."""
        self._comm.exchange(outgoing, incoming, sent, most)
        self._seconds += self._network.exchange_seconds(2 * most) / 2

    def count(self, steps: int) -> int:
        """See `Communicator.count`; it takes no time that counts."""
        return self._comm.count(steps)

    def split(self, size: int) -> Sequence[Team]:
        """See `Communicator.split`."""
        teams = self._comm.split(size)
        network = replace(self._network, num_workers=size)
        kept = self._teams.setdefault(size, [Metered(team.comm, network) for team in teams])
        return [team._replace(comm=comm) for team, comm in zip(teams, kept, strict=True)]
