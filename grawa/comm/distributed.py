"""Workers in several processes, over `torch.distributed` (gloo on the CPU, NCCL on GPUs)."""

import os
import uuid
from collections.abc import Callable, Sequence
from datetime import timedelta
from hashlib import sha256
from itertools import chain
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from grawa.comm.in_process import (
    InProcessCommunicator,
    check_split,
    mean_of_rows,
    weights_per_leaf,
)
from grawa.comm.messages import Messages, contact
from grawa.comm.plan import Piece, Plan, Run, plan_of, runs, section
from grawa.comm.protocol import Team
from grawa.comm.shared_memory import Block, Handle, SharedMemory, attach, counterparts
from grawa.errors import CommunicationError, UserError
from grawa.math.leaves import Leaves, Rows, Stack, private
from grawa.math.mean import RunningMean

DEFAULT_TIMEOUT = timedelta(minutes=10)
"""Long enough for a straggler's round, short enough to notice a lost worker the same morning."""


class DistributedCommunicator:
    """The communicator of P processes that host K workers each; process p hosts pK .. pK+K-1.

    It talks over a process group of its own, so that its traffic can't be mistaken for the
    model's. Processes of one machine, on the CPU, read each other's rows where they lie, if these
    were made by `allocate`; nothing but a word that they are there is sent.

    Args:
        ranks: the processes that take part, by global rank; all of them by default.
        num_hosted: K, the same on every process.
        timeout: how long a call may wait for the others before it raises `CommunicationError`.
        shared_memory: whether processes of one machine may read each other's memory.

    Raises:
        CommunicationError: if not all of them come.
        UserError: if they host different numbers of workers.

    Source: the weighted mean is the reduce-scatter and all-gather of Rabenseifner (2004), with
    direct messages; see `grawa.comm.plan`.
    """

    def __init__(
        self,
        ranks: Sequence[int] | None = None,
        num_hosted: int = 1,
        timeout: timedelta = DEFAULT_TIMEOUT,
        *,
        shared_memory: bool = True,
    ) -> None:
        members = list(range(dist.get_world_size()) if ranks is None else ranks)
        try:
            created = dist.new_group(members, timeout=timeout, use_local_synchronization=True)
        except RuntimeError as error:
            raise CommunicationError(
                f"rank {dist.get_rank()} waited in vain for all of ranks {members} to make their "
                f"process group ({str(error).splitlines()[0]})"
            ) from error
        assert isinstance(created, dist.ProcessGroup), "this process belongs to the group"
        self._group = created
        self._store = created.get_group_store()
        self._members = members
        self._process = members.index(dist.get_rank())
        self._num_hosted = num_hosted
        on_gpu = dist.get_backend(self._group) == "nccl"
        self._device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else None
        self._timeout = timeout
        self._teams: dict[int, list[Team]] = {}
        self._bytes = 0
        self._memory: SharedMemory | None = None
        self._meet_first(shared_memory)

    def _meet_first(self, shared_memory: bool) -> None:
        """Makes sure that all host as many workers; finds out how they reach each other."""
        own = [self._num_hosted, _machine(), int(shared_memory)]
        everyone = self._everyone(own, "compare numbers of workers")
        hosted, machines, willing = zip(*everyone, strict=True)
        if len(set(hosted)) > 1:
            raise UserError(
                f"every process must host as many workers, got {list(hosted)} on ranks "
                f"{self._members}"
            )
        far = len(set(machines)) > 1
        self._in_step = far and self._device is None
        if all(willing) and not far and self._device is None:
            self._memory = self._try_memory()

    def _try_memory(self) -> SharedMemory | None:
        """Memory that all processes can reach in each other, if they can."""
        memory, word = SharedMemory(), int.from_bytes(os.urandom(7))
        known = hasattr(os, "memfd_create")  # on Linux
        probe = memory.empty(1, torch.int64).fill_(word) if known else None
        block = None if probe is None else memory.find(probe)
        handle = Handle(0, 0, 0) if block is None else block.handle
        everyone = self._everyone([word, *handle], "try shared memory")
        reached = all(_reads(Handle(*theirs), word) for word, *theirs in everyone)
        agreed = self._everyone([int(reached)], "try shared memory")
        return memory if all(flag for (flag,) in agreed) else None

    def _everyone(self, own: Sequence[int], purpose: str) -> list[list[int]]:
        """Some whole numbers of every process; also a place to meet."""
        row = torch.tensor(own, device=self._device)
        everyone = row.expand(len(self._members), -1).clone()
        messages = Messages(self._group, purpose)
        for peer in self._peers():
            messages.send(row, peer)
            messages.receive(everyone[peer], peer)
        messages.start()
        messages.wait()
        found: list[list[int]] = everyone.tolist()
        return found

    def _messages(self, purpose: str) -> Messages:
        return Messages(self._group, purpose, in_step=self._in_step)

    @property
    def num_workers(self) -> int:
        """N = P K."""
        return len(self._members) * self._num_hosted

    @property
    def num_hosted(self) -> int:
        """K."""
        return self._num_hosted

    @property
    def num_processes(self) -> int:
        """P."""
        return len(self._members)

    @property
    def process(self) -> int:
        """See `Communicator.process`."""
        return self._process

    @property
    def bytes_sent(self) -> int:
        """Bytes of payload this process has sent, divided by K."""
        in_teams = sum(team.comm.bytes_sent for team in chain(*self._teams.values()))
        return self._bytes // self._num_hosted + in_teams

    def close(self) -> None:
        """Gives the process group back."""
        dist.destroy_process_group(self._group)

    def allocate(self, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """See `Communicator.allocate`; in memory that the others can reach, if they can."""
        if self._memory is None or device.type != "cpu":
            return private(size, dtype, device)
        return self._memory.empty(size, dtype)

    def gather(self, rows: Tensor) -> Callable[[], Tensor]:
        """See `Communicator.gather`."""
        row = rows.detach().to(self._device or "cpu", torch.float64).contiguous()
        everyone = row.new_empty(len(self._members), *row.shape)
        everyone[self._process] = row
        messages = Messages(self._group, "gather scores")
        for peer in self._peers():
            messages.send(row, peer)
            messages.receive(everyone[peer], peer)
        messages.start()
        self._bytes += messages.bytes_sent

        def wait() -> Tensor:
            messages.wait()
            return everyone.flatten(0, 1).cpu()

        return wait

    def _peers(self) -> list[int]:
        """The other processes, p+1, p+2, ..., so that not all talk to process 0 first."""
        processes = len(self._members)
        return [(self._process + hop) % processes for hop in range(1, processes)]

    def hosted(self, rows: Tensor) -> Tensor:
        """See `Communicator.hosted`."""
        first = self._process * self._num_hosted
        return rows[first : first + self._num_hosted]

    def weighted_mean(self, rows: Stack, weights: Tensor, out: Leaves | None = None) -> Leaves:
        """See `Communicator.weighted_mean`."""
        processes = len(self._members)
        if out is None:
            out = Leaves.like(rows, multiple=processes, allocate=self.allocate)
        elif any(flat.numel() % processes for flat in out.flats):  # no equal sections
            mean = self.weighted_mean(rows, weights)
            for own, other in zip(out.flats, mean.flats, strict=True):
                own.copy_(other[: own.numel()])
            return out
        masses = weights_per_leaf(
            weights.view(processes, self._num_hosted, -1).sum(dim=1), len(rows)
        )
        mine = self._row(rows, weights)
        plan = plan_of(out, processes)
        self._bytes += plan.bytes_sent(self._process, masses)
        row_of_each, out_of_each = self._reach(mine), self._reach(out.flats)
        if row_of_each is None or out_of_each is None:
            self._send_rows(plan, mine, masses, out)
            self._share_sections(out)
        else:
            self._mean_in_memory(plan, masses, row_of_each, out_of_each)
        return out

    def _reach(self, tensors: Sequence[Tensor]) -> list[list[Tensor]] | None:
        """What each process keeps where this one keeps these tensors, if that can be reached."""
        found = [self._memory.find(x) if self._memory else None for x in tensors]
        blocks = [block for block in found if block is not None]
        if len(blocks) < len(tensors):
            return None
        for block in blocks:
            if not block.theirs:
                self._map(block)
        of_each = [counterparts(x, block) for x, block in zip(tensors, blocks, strict=True)]
        return [list(kept) for kept in zip(*of_each, strict=True)]

    def _map(self, block: Block) -> None:
        everyone = self._everyone(block.handle, "share memory")
        try:
            block.theirs = [attach(Handle(*theirs)) for theirs in everyone]
        except OSError as error:
            raise CommunicationError(
                f"rank {dist.get_rank()} can't reach the memory of another process any more "
                f"({error}); shared_memory=False has them send everything"
            ) from error
        self._everyone([0], "share memory")  # or one might be gone before all have found it

    def _mean_in_memory(
        self,
        plan: Plan,
        masses: list[list[float]],
        rows: list[list[Tensor]],
        means: list[list[Tensor]],
    ) -> None:
        """Every owner reads all rows of its section, and puts their mean where all will read it."""
        me, processes = self._process, len(self._members)
        own = plan.pieces[me]
        # Nobody is training, and nobody uses a mean, once all have come here.
        self._everyone([0], "average parameters")
        running = RunningMean([means[me][p.flat][p.start : p.stop] for p in own])
        for row, mass in zip(rows, masses, strict=True):
            running.add([row[p.flat][p.start : p.stop] for p in own], [mass[p.leaf] for p in own])
        mine = [section(flat, me, processes) for flat in means[me]]
        for peer in self._peers():
            torch._foreach_copy_([section(flat, me, processes) for flat in means[peer]], mine)
        self._everyone([0], "share the average")

    def exchange(
        self, outgoing: Sequence[Tensor], incoming: Sequence[Tensor], sent: int, most: int
    ) -> None:
        """See `Communicator.exchange`."""
        messages = self._messages("exchange buffers")
        for peer in self._peers():
            if outgoing[peer].numel():
                messages.send(outgoing[peer], peer)
            if incoming[peer].numel():
                messages.receive(incoming[peer], peer)
        messages.run()
        self._bytes += sent

    def count(self, steps: int) -> int:
        """See `Communicator.count`."""
        with contact(f"count {steps} local steps"):
            return int(self._store.add("local steps", steps))

    def split(self, size: int) -> Sequence[Team]:
        """See `Communicator.split`."""
        if size not in self._teams:
            self._teams[size] = self._new_teams(size)
        return self._teams[size]

    def _new_teams(self, size: int) -> list[Team]:
        check_split(self.num_workers, size)
        hosted = self._num_hosted
        first = self._process * hosted
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
        ranks = self._members[start // hosted : (start + size) // hosted]
        comm = DistributedCommunicator(ranks, hosted, self._timeout)
        return [Team(slice(start, start + size), slice(0, hosted), comm)]

    def _row(self, rows: Stack, weights: Tensor) -> list[Tensor]:
        """The hosted workers' weighted mean, laid out as the result; if K=1, the row itself."""
        if self._num_hosted == 1:
            if isinstance(rows, Rows) and rows.blocks:
                return [block[0] for block in rows.blocks]
            return Leaves.copy_of(rows).flats  # gradients and shards don't lie together
        means = Leaves.like(rows)
        hosted = self.hosted(weights).expand(-1, len(rows)).tolist()
        mean_of_rows(rows, hosted, means)
        return means.flats

    def _send_rows(
        self, plan: Plan, row: list[Tensor], masses: list[list[float]], mean: Leaves
    ) -> None:
        """Phase one: everyone's values to each section's owner, who takes their mean."""
        me, processes = self._process, len(self._members)
        own = plan.pieces[me]
        arrived = {me: [row[piece.flat][piece.start : piece.stop] for piece in own]}
        messages = self._messages("average parameters")
        for peer in self._peers():
            arrived[peer] = [_waiting_place(mean, piece, me, peer, processes) for piece in own]
            for run in runs(plan.pieces[peer], masses[me]):
                messages.send(row[run.flat][run.start : run.stop], peer)
            for run in runs(own, masses[peer]):
                messages.receive(_waiting_place(mean, run, me, peer, processes), peer)
        messages.run()
        running = RunningMean([mean.flats[piece.flat][piece.start : piece.stop] for piece in own])
        for peer in range(processes):
            running.add(arrived[peer], [masses[peer][piece.leaf] for piece in own])

    def _share_sections(self, mean: Leaves) -> None:
        """Phase two: each owner's section of the mean to everyone."""
        me, processes = self._process, len(self._members)
        messages = self._messages("share the average")
        for peer in self._peers():
            for flat in mean.flats:
                messages.send(section(flat, me, processes), peer)
                messages.receive(section(flat, peer, processes), peer)
        messages.run()


def _waiting_place(mean: Leaves, part: Piece | Run, me: int, peer: int, processes: int) -> Tensor:
    """Where a peer's values of a part of my section wait: at the same place in the peer's."""
    flat = mean.flats[part.flat]
    shift = (peer - me) * (flat.numel() // processes)
    return flat[part.start + shift : part.stop + shift]


def _reads(handle: Handle, word: int) -> bool:
    """Whether another process's memory is there, and is what it is said to be."""
    try:
        return int(attach(handle).view(torch.int64)) == word
    except (OSError, ValueError):
        return False


def _machine() -> int:
    """A number for what processes share if they reach each other without a network."""
    boot, network = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/net")
    if boot.exists() and network.exists():
        name = f"{boot.read_text(encoding='ascii')}{network.stat().st_ino}"
    else:
        name = f"{uuid.getnode()}"
    return int.from_bytes(sha256(name.encode()).digest()[:7])
