"""A communicator whose means travel in fewer bits, as differences from the last one."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from grawa.comm.in_process import weights_per_leaf
from grawa.comm.parcel import Batch, Parcel, batches, cut, num_bytes
from grawa.comm.plan import Piece, plan_of
from grawa.comm.protocol import Communicator, Team
from grawa.errors import DivergedError
from grawa.math.codec import Codec, Precision
from grawa.math.leaves import Leaves, Rows, Stack
from grawa.math.mean import RunningMean

__all__ = ["Compressed", "Precision"]

Sections = Sequence[Sequence[Piece]]
"""The pieces of each worker's section."""


class Compressed:
    """A communicator that sends differences from the last mean, in fewer bits.

    The first mean travels as it is; it is the first reference. From then on each worker sends
    its difference from the reference, the owner of a section takes the weighted mean of what it
    reads, and sends it in as few bits to all, who add it to the reference: that is the mean, the
    same bits everywhere, and the next reference. With "int8" each piece of a leaf, of 65,536
    numbers at most, has a scale, and what rounding loses is added to the next difference, of a
    worker as well as of an owner.

    It is made for strategies that ask for one mean a round, of the same leaves; other leaves
    travel as they are. It keeps the reference, one copy of the parameters, and with "int8" what
    was lost, one more in float32.

    Args:
        comm: what talks.
        precision: in what differences travel.

    Source: Seide et al. (2014), "1-Bit Stochastic Gradient Descent", and Karimireddy et al.
    (2019), "Error Feedback Fixes SignSGD", for the feedback.
    """

    def __init__(self, comm: Communicator, precision: Precision) -> None:
        self._comm = comm
        self._precision: Precision = precision
        self._codec = Codec(precision)
        self._reference: Leaves | None = None
        self._device = torch.device("cpu")
        self._lost: dict[int, list[Tensor]] = {}
        self._lost_by_owner: dict[int, list[Tensor]] = {}
        self._teams: dict[int, list[Compressed]] = {}

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
        """Which of them this is."""
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

    def count(self, steps: int) -> int:
        """See `Communicator.count`."""
        return self._comm.count(steps)

    def exchange(
        self, outgoing: Sequence[Tensor], incoming: Sequence[Tensor], sent: int, most: int
    ) -> None:
        """See `Communicator.exchange`."""
        self._comm.exchange(outgoing, incoming, sent, most)

    def split(self, size: int) -> Sequence[Team]:
        """See `Communicator.split`; each team has a reference of its own."""
        teams = self._comm.split(size)
        kept = self._teams.setdefault(size, [Compressed(t.comm, self._precision) for t in teams])
        return [team._replace(comm=comm) for team, comm in zip(teams, kept, strict=True)]

    def start_from(self, rows: Stack) -> None:
        """Takes rows that all workers have in common for the first reference; nothing is sent."""
        self._reference = Leaves.like(rows, multiple=self.num_workers)
        self._device = self._reference.flats[0].device
        _put(self._reference, Leaves.copy_of(rows))

    def weighted_mean(self, rows: Stack, weights: Tensor, out: Leaves | None = None) -> Leaves:
        """See `Communicator.weighted_mean`; what is not finite is noticed on every process."""
        reference = self._reference
        if reference is None or not _fits(rows, reference):
            mean = self._comm.weighted_mean(rows, weights, out)
            if reference is None:
                self._reference = Leaves.like(rows, multiple=self.num_workers)
                self._device = self._reference.flats[0].device
                _put(self._reference, mean)
            return mean
        masses = weights_per_leaf(weights, len(rows))
        sections = [cut(own) for own in plan_of(reference, self.num_workers).pieces]
        arrived = self._swap_rows(rows, reference, sections, masses)
        self._move(reference, sections, arrived, masses)
        if out is None:
            out = Leaves.like(rows, multiple=self.num_processes)
        _put(out, reference)
        return out

    def _swap_rows(
        self, rows: Stack, reference: Leaves, sections: Sections, masses: list[list[float]]
    ) -> list[list[Parcel]]:
        """Phase one: what every worker says of each section that a hosted worker owns.

        Returns:
            For each of the K sections, N parcels.
        """
        sent = [[_heavy(own, mass) for own in sections] for mass in masses]
        mine = self._of(self.process)
        to_each = [[(i, s) for i in mine for s in self._of(p)] for p in range(self.num_processes)]
        outgoing, parcels = self._parcels_for(to_each, sent)
        for i in mine:
            written = [parcels[i, s] for s in range(self.num_workers)]
            self._write_row(i - mine.start, rows, reference, sent[i], written)
        from_each = [[(i, s) for i in self._of(p) for s in mine] for p in range(self.num_processes)]
        incoming, arrived = self._parcels_for(from_each, sent)
        stays = mine if self.num_processes > 1 else range(0)  # else workers stand for processes
        sizes = [[num_bytes(self._codec, pieces) for pieces in its] for its in sent]
        away = sum(
            size for i in mine for s, size in enumerate(sizes[i]) if s not in stays and s != i
        )
        most = max(sum(its) - its[i] for i, its in enumerate(sizes))
        self.exchange(outgoing, incoming, away, most)
        arrived.update((key, parcels[key]) for key in to_each[self.process])
        return [[arrived[i, s] for i in range(self.num_workers)] for s in mine]

    def _parcels_for(
        self, keys: Sequence[Sequence[tuple[int, int]]], sent: Sequence[Sections]
    ) -> tuple[list[Tensor], dict[tuple[int, int], Parcel]]:
        """A buffer for each process, and the parcels in it, by worker and section."""
        buffers: list[Tensor] = []
        parcels: dict[tuple[int, int], Parcel] = {}
        for of_process in keys:
            buffer, made = self._parcels([sent[i][s] for i, s in of_process])
            buffers.append(buffer)
            parcels.update(zip(of_process, made, strict=True))
        return buffers, parcels

    def _parcels(self, contents: Sections) -> tuple[Tensor, list[Parcel]]:
        """A buffer, and parcels of these contents in it, one behind the other."""
        sizes = [num_bytes(self._codec, pieces) for pieces in contents]
        buffer = torch.zeros(sum(sizes), dtype=torch.uint8, device=self._device)
        parts = zip(contents, buffer.split(sizes), strict=True)
        return buffer, [Parcel(self._codec, pieces, part) for pieces, part in parts]

    def _write_row(
        self,
        k: int,
        rows: Stack,
        reference: Leaves,
        sections: Sections,
        parcels: Sequence[Parcel],
    ) -> None:
        """A hosted worker's differences, a parcel for each section."""
        if not any(sections):
            return
        flats = _flats(rows, k)
        if self._codec.has_scales and k not in self._lost:
            self._lost[k] = [torch.zeros_like(f, dtype=torch.float32) for f in reference.flats]
        for pieces, parcel in zip(sections, parcels, strict=True):
            for batch in batches(pieces):
                differences = torch._foreach_sub(
                    _parts(flats, batch.pieces), _parts(reference.flats, batch.pieces)
                )
                lost = _parts(self._lost[k], batch.pieces) if k in self._lost else []
                self._write(parcel, batch, [d.to(torch.float32) for d in differences], lost)

    def _write(
        self, parcel: Parcel, batch: Batch, values: list[Tensor], lost: list[Tensor]
    ) -> None:
        """Values, with what was lost before; `lost` becomes what is now."""
        if lost:
            torch._foreach_add_(values, lost)
        parcel.write(batch.first, values)
        if lost:
            torch._foreach_copy_(lost, values)
            torch._foreach_sub_(lost, parcel.read(batch.first, len(values)))

    def _move(
        self,
        reference: Leaves,
        sections: Sections,
        arrived: Sequence[Sequence[Parcel]],
        masses: list[list[float]],
    ) -> None:
        """Phase two: the owners' mean differences to all, who move the reference by them."""
        mine = self._of(self.process)
        of_each = [[sections[s] for s in self._of(p)] for p in range(self.num_processes)]
        buffer, written = self._parcels(of_each[self.process])
        for k, parcel in enumerate(written):
            self._write_section(k, sections[mine.start + k], arrived[k], masses, parcel)
        others = (self.num_processes if self.num_processes > 1 else self.num_workers) - 1
        incoming, parcels = map(list, zip(*map(self._parcels, of_each), strict=True))
        most = max(num_bytes(self._codec, pieces) for pieces in sections) * (self.num_workers - 1)
        self.exchange([buffer] * self.num_processes, incoming, buffer.numel() * others, most)
        parcels[self.process] = written
        sizes: list[Tensor] = []
        for pieces, parcel in zip(sections, chain(*parcels), strict=True):
            for batch in batches(pieces):
                moves = parcel.read(batch.first, len(batch.pieces))
                places = _parts(reference.flats, batch.pieces)
                torch._foreach_add_(places, [m.to(x) for m, x in zip(moves, places, strict=True)])
                sizes += torch._foreach_norm(moves)
        if not bool(torch.isfinite(torch.stack(sizes)).all()):
            raise DivergedError(
                "the mean of the workers' parameters is not finite; the guard keeps workers out "
                "that have diverged"
            )

    def _write_section(
        self,
        k: int,
        pieces: Sequence[Piece],
        arrived: Sequence[Parcel],
        masses: list[list[float]],
        parcel: Parcel,
    ) -> None:
        """The mean of what workers say of a hosted worker's section, in the order of workers."""
        if self._codec.has_scales and k not in self._lost_by_owner:
            self._lost_by_owner[k] = [
                torch.zeros(piece.size, device=self._device) for piece in pieces
            ]
        lost = self._lost_by_owner.get(k, [])
        read = [0] * len(arrived)
        for batch in batches(pieces):
            running = RunningMean([torch.zeros(p.size, device=self._device) for p in batch.pieces])
            for i, (its, mass) in enumerate(zip(arrived, masses, strict=True)):
                weights = [mass[piece.leaf] for piece in batch.pieces]
                count = sum(weight > 0 for weight in weights)
                found = iter(its.read(read[i], count))
                read[i] += count
                # What has no weight is not there: the mean stands in for it.
                running.add(
                    [
                        next(found) if weight > 0 else own
                        for weight, own in zip(weights, running.mean, strict=True)
                    ],
                    weights,
                )
            part = lost[batch.first : batch.first + len(batch.pieces)]
            self._write(parcel, batch, running.mean, part)

    def _of(self, process: int) -> range:
        """The workers that a process hosts, whose sections it owns."""
        return range(process * self.num_hosted, (process + 1) * self.num_hosted)

    def state_dict(self) -> dict[str, Any]:
        """What must be saved so that training resumes bit for bit."""
        return {
            "reference": None if self._reference is None else self._reference.flats,
            "lost": self._lost,
            "lost_by_owner": self._lost_by_owner,
            "teams": {
                size: [team.state_dict() for team in teams] for size, teams in self._teams.items()
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave, after the first mean."""
        if self._reference is not None and state["reference"] is not None:
            torch._foreach_copy_(self._reference.flats, state["reference"])
        self._lost = {k: list(flats) for k, flats in state["lost"].items()}
        self._lost_by_owner = {k: list(flats) for k, flats in state["lost_by_owner"].items()}
        for size, saved in state["teams"].items():
            for team, own in zip(self._teams[size], saved, strict=True):
                team.load_state_dict(own)


def _heavy(pieces: Sequence[Piece], masses: Sequence[float]) -> list[Piece]:
    """The pieces of leaves in which a worker has weight."""
    return [piece for piece in pieces if masses[piece.leaf] > 0]


def _parts(flats: Sequence[Tensor], pieces: Sequence[Piece]) -> list[Tensor]:
    """The pieces of flat tensors."""
    return [flats[piece.flat][piece.start : piece.stop] for piece in pieces]


def _flats(rows: Stack, k: int) -> list[Tensor]:
    """A hosted worker's row, as one tensor per dtype and device."""
    if isinstance(rows, Rows) and rows.blocks:
        return [block[k] for block in rows.blocks]
    return Leaves.copy_of(rows, k).flats


def _put(target: Leaves, source: Leaves) -> None:
    """Copies leaves of one form, however their flat tensors are padded."""
    for own, other in zip(target.flats, source.flats, strict=True):
        size = min(len(own), len(other))
        own[:size].copy_(other[:size])


def _fits(rows: Stack, reference: Leaves) -> bool:
    return rows.keys() == reference.keys() and all(
        row.shape[1:] == reference[name].shape and row.dtype == reference[name].dtype
        for name, row in rows.items()
    )
