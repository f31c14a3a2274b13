"""The transport of N workers of which some are absent."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import NoReturn

import torch
from torch import Tensor

from grawa.comm.compression import Compression
from grawa.comm.distributed import DistributedCommunicator
from grawa.comm.gloo_world import GlooWorld
from grawa.comm.protocol import TeamTransport
from grawa.errors import CommunicationError, UserError
from grawa.math.columns import RowFunction
from grawa.math.leaves import Leaves, Stack


class ElasticCommunicator:
    """A transport over the workers of a quorum, one in each process.

    A worker that is absent has a row of NaN in what is gathered (zeros in whole numbers), and no
    part in a mean. Connections are made anew for each set of workers, and given up at an error.

    Args:
        num_workers: N, absent ones too.
        worker: the number of this one.
        address: of this machine, at which the others reach it.
        timeout: how long a message may wait for another worker.
        device: where what is averaged lives.
        shared_memory: whether processes of one machine may read each other's memory.
        hosts: the workers of each host; found out by default.
    """

    num_hosted = 1

    def __init__(
        self,
        num_workers: int,
        worker: int,
        *,
        address: str = "127.0.0.1",
        timeout: timedelta,
        device: torch.device | None = None,
        shared_memory: bool = True,
        hosts: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.num_workers, self.num_processes, self.process = num_workers, num_workers, worker
        self._address, self._timeout, self._device = address, timeout, device
        self._shared_memory, self._hosts = shared_memory, hosts
        self._inner: DistributedCommunicator | None = None
        self._present: list[int] = []
        self._bytes_before = 0
        self.opened = ""
        """The name of the connections that are open."""

    def connect(self, name: str, workers: list[int], store: str) -> None:
        """Connects the workers of a quorum; collective among them.

        Args:
            name: of the quorum.
            workers: their numbers.
            store: where they find each other, "host:port".
        """
        self.abandon()
        world = GlooWorld(
            name,
            workers,
            self.process,
            store=store,
            address=self._address,
            timeout=self._timeout,
        )
        self._inner = DistributedCommunicator(
            workers,
            timeout=self._timeout,
            device=self._device,
            shared_memory=self._shared_memory,
            hosts=self._hosts,
            world=world,
        )
        self._present, self.opened = workers, name

    def abandon(self) -> None:
        """Closes all connections; the others notice at once."""
        inner, self._inner, self.opened = self._inner, None, ""
        if inner is not None:
            self._bytes_before += inner.bytes_sent
            inner.abandon()

    def _connected(self) -> DistributedCommunicator:
        if self._inner is None:
            raise CommunicationError(f"worker {self.process} is not connected to any other")
        return self._inner

    @property
    def arrangement(self) -> str:
        """See `Transport.arrangement`."""
        there = self._inner.arrangement if self._inner is not None else "not connected now"
        return f"elastic, {len(self._present)} of {self.num_workers} workers present: {there}"

    @property
    def bytes_sent(self) -> int:
        """See `Transport.bytes_sent`."""
        return self._bytes_before + (0 if self._inner is None else self._inner.bytes_sent)

    def gather(self, rows: Tensor) -> Callable[[], Tensor]:
        """See `Transport.gather`."""
        arrive, present = self._connected().gather(rows), list(self._present)

        def everyone() -> Tensor:
            found = arrive()
            missing = torch.nan if found.is_floating_point() else 0
            full = found.new_full((self.num_workers, *found.shape[1:]), missing)
            full[present] = found
            return full

        return everyone

    def hosted(self, rows: Tensor) -> Tensor:
        """See `Transport.hosted`."""
        return rows[self.process : self.process + 1]

    def weighted_mean(
        self,
        rows: Stack,
        weights: Tensor,
        out: Leaves | None = None,
        compression: Compression | None = None,
    ) -> Leaves:
        """See `Transport.weighted_mean`; weights of those who are absent are ignored."""
        return self._connected().weighted_mean(rows, weights[self._present], out, compression)

    def reduce_rows(
        self,
        rows: Stack,
        function: RowFunction,
        active: Tensor,
        out: Leaves | None = None,
        compression: Compression | None = None,
    ) -> Leaves:
        """See `Transport.reduce_rows`; those who are absent don't take part."""
        here = active[self._present]
        return self._connected().reduce_rows(rows, function, here, out, compression)

    def pairwise_distances(self, rows: Stack, active: Tensor) -> Tensor:
        """See `Transport.pairwise_distances`."""
        here = torch.tensor(self._present)
        found = self._connected().pairwise_distances(rows, active[here])
        full = found.new_full((self.num_workers, self.num_workers), torch.inf)
        full[here.unsqueeze(1), here] = found
        return full

    def count(self, steps: int) -> NoReturn:
        """Refused: see `grawa.rounds.plan`."""
        raise UserError("elastic workers can't count their steps together")

    def reset_count(self, steps: int) -> NoReturn:
        """Refused, as `count`."""
        self.count(steps)

    def split(self, size: int) -> Sequence[TeamTransport]:
        """Refused: teams would lose their members."""
        raise UserError(f"elastic workers can't be split into teams of {size}")

    def release(self) -> None:
        """See `Transport.release`."""
        self.abandon()
