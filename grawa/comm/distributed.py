"""Workers in several processes, over `torch.distributed` (gloo on the CPU, NCCL on GPUs)."""

import weakref
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import chain

import torch
from torch import Tensor

from grawa.comm.compression import Compression
from grawa.comm.counter import SharedCounter
from grawa.comm.exchange import checked_weights
from grawa.comm.group import Group
from grawa.comm.hosts import levels_between
from grawa.comm.in_process import InProcessCommunicator, check_split
from grawa.comm.levels import Levels
from grawa.comm.pool import Lease, TorchWorld, World
from grawa.comm.protocol import TeamTransport
from grawa.comm.rows import checked_active, distances_of, reduce_rows, squares_by_section
from grawa.errors import UserError
from grawa.math.columns import RowFunction
from grawa.math.leaves import Leaves, Stack

DEFAULT_TIMEOUT = timedelta(minutes=10)
"""Long enough for a straggler's round, short enough to notice a lost worker the same morning."""


class DistributedCommunicator:
    """The transport of P processes that host K workers each; process p hosts pK .. pK+K-1.

    It talks over a process group of its own, so that its traffic can't be mistaken for the
    model's. Processes of one machine, on the CPU, read each other's rows from shared memory,
    and only tell each other when they may.

    Args:
        ranks: the processes that take part, by global rank; all of them by default.
        num_hosted: K, the same on every process.
        timeout: how long a call may wait for the others before it raises `CommunicationError`.
        device: where what is averaged lives, the CPU by default; it decides which of the group's
            backends sends.
        shared_memory: whether processes of one machine may read each other's memory.
        hosts: the ranks of each host; found out by default, from what processes share. Others
            than those that take part are ignored.
        between_hosts: the backend that sends from one host to another; by default the one that
            sends inside hosts.
        world: in which the ranks are numbered; torch.distributed's default group by default.

    Raises:
        CommunicationError: if not all of them come.
        UserError: if they host different numbers of workers, or this process is not one of them.

    Source: the weighted mean is the reduce-scatter and all-gather of Rabenseifner (2004), with
    direct messages; see `grawa.comm.plan`.
    """

    def __init__(
        self,
        ranks: Sequence[int] | None = None,
        num_hosted: int = 1,
        timeout: timedelta = DEFAULT_TIMEOUT,
        *,
        device: torch.device | None = None,
        shared_memory: bool = True,
        hosts: Sequence[Sequence[int]] | None = None,
        between_hosts: str | None = None,
        world: World | None = None,
    ) -> None:
        self._between_hosts = between_hosts
        self._world = TorchWorld() if world is None else world
        self._members = self._world.everyone() if ranks is None else list(ranks)
        self._device = torch.device("cpu") if device is None else device
        self._num_hosted = num_hosted
        self._timeout = timeout
        self._shared_memory = shared_memory
        self._hosts = hosts
        self._teams: dict[int, list[TeamTransport]] = {}
        self._bytes = 0
        self._open()

    def _open(self) -> None:
        """Connects to the other processes; again, if it is used after a release."""
        self._leases = [self._world.lease(self._members, self._timeout, self._between_hosts)]
        key = f"local steps/{self._leases[0].uses}"
        self._counter = SharedCounter(self._leases[0].connection, key, self._timeout)
        self._end = weakref.finalize(self, _end, self._world, self._leases, self._counter)
        self._group = Group(self._leases[0], self._device)
        self._levels: Levels | None = levels_between(
            self._group,
            self._part,
            num_hosted=self._num_hosted,
            willing=self._shared_memory and self._device.type == "cpu",
            hosts=self._hosts,
            between_hosts=self._between_hosts,
        )
        self._arrangement = str(self._levels)

    def _opened(self) -> Levels:
        if self._levels is None:
            self._open()
        assert self._levels is not None, "it has just been opened"
        return self._levels

    def _part(self, processes: Sequence[int], *, one_host: bool) -> Group:
        """A group of some of the processes, this one among them; of one host, or of several."""
        backend = None if one_host else self._between_hosts
        if len(processes) == len(self._members) and backend == self._leases[0].backend:
            return self._group
        leased = self._world.lease([self._members[p] for p in processes], self._timeout, backend)
        self._leases.append(leased)
        return Group(leased, self._device)

    @property
    def arrangement(self) -> str:
        """See `Transport.arrangement`."""
        return self._arrangement

    @property
    def num_workers(self) -> int:
        """N = P K."""
        return self.num_processes * self._num_hosted

    @property
    def num_hosted(self) -> int:
        """K."""
        return self._num_hosted

    @property
    def num_processes(self) -> int:
        """P."""
        return len(self._group.members)

    @property
    def process(self) -> int:
        """See `Transport.process`."""
        return self._group.process

    @property
    def bytes_sent(self) -> int:
        """Bytes of payload this process has sent, or would have without shared memory, by K."""
        in_teams = sum(team.transport.bytes_sent for team in chain(*self._teams.values()))
        return self._bytes // self._num_hosted + in_teams

    def gather(self, rows: Tensor) -> Callable[[], Tensor]:
        """See `Transport.gather`."""
        own = rows.detach().resolve_conj().resolve_neg().contiguous()
        shape = (self.num_workers, *own.shape[1:])
        if not own.numel():
            return lambda: torch.empty(shape, dtype=own.dtype)
        arrive = self._opened().gather(own.view(-1).view(torch.uint8))
        self._bytes += own.nbytes * (self.num_processes - 1)
        return lambda: arrive().cpu().view(own.dtype).view(shape)

    def hosted(self, rows: Tensor) -> Tensor:
        """See `Transport.hosted`."""
        first = self.process * self._num_hosted
        return rows[first : first + self._num_hosted]

    @torch.no_grad()
    def weighted_mean(
        self,
        rows: Stack,
        weights: Tensor,
        out: Leaves | None = None,
        compression: Compression | None = None,
    ) -> Leaves:
        """See `Transport.weighted_mean`."""
        lists = checked_weights(rows, weights)
        mean = Leaves.like(rows) if out is None else out
        levels = self._opened()
        if rows:
            self._bytes += levels.weighted_mean(self._num_hosted, rows, lists, mean, compression)
        return mean

    @torch.no_grad()
    def reduce_rows(
        self,
        rows: Stack,
        function: RowFunction,
        active: Tensor,
        out: Leaves | None = None,
        compression: Compression | None = None,
    ) -> Leaves:
        """See `Transport.reduce_rows`."""
        taking_part = checked_active(rows, active)
        found = Leaves.like(rows) if out is None else out
        flat = self._opened().flat
        self._bytes += reduce_rows(flat, rows, function, taking_part, found, compression)
        return found

    @torch.no_grad()
    def pairwise_distances(self, rows: Stack, active: Tensor) -> Tensor:
        """See `Transport.pairwise_distances`."""
        flat = self._opened().flat
        squares, sent = squares_by_section(flat, rows, checked_active(rows, active))
        self._bytes += sent
        return distances_of(self.gather(squares)(), active)

    def count(self, steps: int) -> int:
        """See `Transport.count`."""
        self._opened()
        return self._counter.add(steps)

    def reset_count(self, steps: int) -> None:
        """See `Transport.reset_count`."""
        self._opened()
        self._counter.reset(steps)

    def split(self, size: int) -> Sequence[TeamTransport]:
        """See `Transport.split`."""
        if size not in self._teams:
            self._teams[size] = self._new_teams(size)
        return self._teams[size]

    def _new_teams(self, size: int) -> list[TeamTransport]:
        check_split(self.num_workers, size)
        hosted = self._num_hosted
        first = self.process * hosted
        if hosted % size == 0:
            teams = InProcessCommunicator(hosted).split(size)
            return [
                team._replace(workers=slice(first + team.hosted.start, first + team.hosted.stop))
                for team in teams
            ]
        if size % hosted:
            raise UserError(
                f"teams of {size} don't fit processes that host {hosted} workers each: one must "
                "be a multiple of the other"
            )
        start = first // size * size
        transport = DistributedCommunicator(
            self._group.members[start // hosted : (start + size) // hosted],
            hosted,
            self._timeout,
            device=self._device,
            shared_memory=self._shared_memory,
            hosts=self._hosts,
            between_hosts=self._between_hosts,
            world=self._world,
        )
        return [TeamTransport(slice(start, start + size), slice(0, hosted), transport)]

    def release(self) -> None:
        """See `Transport.release`; the next one between these processes takes the group over."""
        for team in chain(*self._teams.values()):
            team.transport.release()
        if self._end.detach():
            self._counter.close(wait=True)
            for leased in self._leases:
                self._world.give_back(leased)
            self._levels = None  # and the memory that it shares

    def abandon(self) -> None:
        """Closes all connections, which are out of step after an error; the others notice."""
        if self._levels is not None:
            self._levels.close()
        self._levels = None
        self._end()


def _end(world: World, ended: list[Lease], counter: SharedCounter) -> None:
    """For a transport that nobody has released, as after an error."""
    counter.close(wait=False)
    for leased in ended:
        world.abandon(leased)
    ended.clear()
