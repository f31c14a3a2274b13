"""A communicator whose means travel in fewer bits, as differences from the last one."""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from grawa.comm.in_process import weights_per_leaf
from grawa.comm.plan import Piece, plan_of
from grawa.errors import DivergedError
from grawa.math.codec import Codec, Precision
from grawa.math.mean import RunningMean
from grawa.protocols import Communicator, Team
from grawa.stack import Leaves, Rows, Stack

__all__ = ["Compressed", "Precision"]

Pieces = Sequence[Sequence[Piece]]
"""The pieces of each worker's section."""


class Compressed:
    """A communicator that sends differences from the last mean, in fewer bits.

    The first mean travels as it is; it is the first reference. From then on each worker sends
    its difference from the reference, the owner of a section takes the weighted mean of what it
    reads, and sends it in as few bits to all, who add it to the reference: that is the mean, the
    same bits everywhere, and the next reference. With "int8" each piece of a leaf has a scale, and
    what rounding loses is added to the next difference, of a worker as well as of an owner.

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

    def exchange(self, outgoing: Sequence[Tensor], incoming: Sequence[Tensor], sent: int) -> None:
        """See `Communicator.exchange`."""
        self._comm.exchange(outgoing, incoming, sent)

    def split(self, size: int) -> Sequence[Team]:
        """See `Communicator.split`; each team has a reference of its own."""
        teams = self._comm.split(size)
        kept = self._teams.setdefault(size, [Compressed(t.comm, self._precision) for t in teams])
        return [team._replace(comm=comm) for team, comm in zip(teams, kept, strict=True)]

    def weighted_mean(self, rows: Stack, weights: Tensor, out: Leaves | None = None) -> Leaves:
        """See `Communicator.weighted_mean`; what is not finite is noticed on every process."""
        reference = self._reference
        if reference is None or not _fits(rows, reference):
            mean = self._comm.weighted_mean(rows, weights, out)
            if reference is None:
                self._reference = Leaves.like(rows, multiple=self.num_workers)
                _put(self._reference, mean)
            return mean
        masses = weights_per_leaf(weights, len(rows))
        pieces = plan_of(reference, self.num_workers).pieces
        sections = self._mean_differences(rows, reference, pieces, masses)
        self._move(reference, pieces, sections)
        if out is None:
            out = Leaves.like(rows, multiple=self.num_processes)
        _put(out, reference)
        return out

    def _mean_differences(
        self, rows: Stack, reference: Leaves, pieces: Pieces, masses: list[list[float]]
    ) -> list[list[Tensor]]:
        """Phase one: the mean differences in the sections of the hosted workers, piece by piece."""
        sent = [[_heavy(own, mass) for own in pieces] for mass in masses]
        first = self.process * self.num_hosted
        written = [
            self._write_row(k, rows, reference, sent[first + k]) for k in range(self.num_hosted)
        ]
        outgoing = [
            torch.cat([row[s] for row in written for s in self._of(p)])
            for p in range(self.num_processes)
        ]
        sizes = [
            [self._size(sent[i][s]) for i in self._of(p) for s in self._of(self.process)]
            for p in range(self.num_processes)
        ]
        away = sum(
            row[s].numel()
            for k, row in enumerate(written)
            for s in range(self.num_workers)
            if (s not in self._of(self.process) if self.num_processes > 1 else s != k)
        )
        arrived = self._swap(outgoing, [sum(size) for size in sizes], away)
        parcels = iter([x for a, size in zip(arrived, sizes, strict=True) for x in a.split(size)])
        by_worker = [{s: next(parcels) for s in self._of(self.process)} for _ in masses]
        return [
            self._mean(pieces[s], [parcel[s] for parcel in by_worker], masses, reference)
            for s in self._of(self.process)
        ]

    def _mean(
        self,
        pieces: Sequence[Piece],
        parcels: Sequence[Tensor],
        masses: list[list[float]],
        reference: Leaves,
    ) -> list[Tensor]:
        """The weighted mean of what workers sent of a section, in the order of their numbers."""
        device = reference.flats[0].device
        running = RunningMean([torch.zeros(piece.size, device=device) for piece in pieces])
        for parcel, mass in zip(parcels, masses, strict=True):
            heavy = _heavy(pieces, mass)
            found = iter(self._read(parcel, heavy))
            weights = [mass[piece.leaf] for piece in pieces]
            # What has no weight is not read: the mean stands in for it.
            row = [
                next(found) if w > 0 else own for w, own in zip(weights, running.mean, strict=True)
            ]
            running.add(row, weights)
        return running.mean

    def _move(self, reference: Leaves, pieces: Pieces, sections: list[list[Tensor]]) -> None:
        """Phase two: the owners' mean differences to all, who move the reference by them."""
        mine = torch.cat([self._write_section(k, own) for k, own in enumerate(sections)])
        sizes = [[self._size(pieces[s]) for s in self._of(p)] for p in range(self.num_processes)]
        others = (self.num_processes if self.num_processes > 1 else self.num_workers) - 1
        arrived = self._swap(
            [mine] * self.num_processes, [sum(size) for size in sizes], mine.numel() * others
        )
        parcels = [x for a, size in zip(arrived, sizes, strict=True) for x in a.split(size)]
        moves = [
            move
            for parcel, own in zip(parcels, pieces, strict=True)
            for move in self._read(parcel, own)
        ]
        if not bool(torch.isfinite(torch.stack(torch._foreach_norm(moves))).all()):
            raise DivergedError(
                "the mean of the workers' parameters is not finite; the guard keeps workers out "
                "that have diverged"
            )
        places = [reference.flats[p.flat][p.start : p.stop] for own in pieces for p in own]
        torch._foreach_add_(places, [m.to(x) for m, x in zip(moves, places, strict=True)])

    def _of(self, process: int) -> range:
        """The workers that a process hosts, whose sections it owns."""
        return range(process * self.num_hosted, (process + 1) * self.num_hosted)

    def _size(self, pieces: Sequence[Piece]) -> int:
        return self._codec.num_bytes(sum(piece.size for piece in pieces), len(pieces))

    def _swap(self, outgoing: list[Tensor], sizes: list[int], sent: int) -> list[Tensor]:
        """One buffer to each process, and one from each."""
        incoming = [
            mine if p == self.process else mine.new_empty(size)
            for p, (mine, size) in enumerate(zip(outgoing, sizes, strict=True))
        ]
        self.exchange(outgoing, incoming, sent)
        return incoming

    def _write_row(
        self, k: int, rows: Stack, reference: Leaves, pieces: list[list[Piece]]
    ) -> list[Tensor]:
        """A hosted worker's differences, a buffer for each section."""
        device = reference.flats[0].device
        if not any(pieces):
            return [torch.empty(0, dtype=torch.uint8, device=device) for _ in pieces]
        flats = _flats(rows, k)
        difference = [
            (flat - known[: len(flat)]).to(torch.float32)
            for flat, known in zip(flats, reference.flats, strict=True)
        ]
        if self._codec.has_scales and k not in self._lost:
            self._lost[k] = [torch.zeros_like(flat) for flat in difference]
        flat_pieces = [piece for own in pieces for piece in own]
        lost = [self._lost[k][p.flat][p.start : p.stop] for p in flat_pieces if self._lost]
        values = [difference[p.flat][p.start : p.stop] for p in flat_pieces]
        codes, scales = self._write(values, lost)
        ends = accumulate((len(own) for own in pieces), initial=0)
        return [_pack(codes[a:b], scales[a:b], device) for a, b in pairwise(ends)]

    def _write_section(self, k: int, means: list[Tensor]) -> Tensor:
        """A hosted worker's section of the mean difference."""
        if self._codec.has_scales and k not in self._lost_by_owner:
            self._lost_by_owner[k] = [torch.zeros_like(mean) for mean in means]
        codes, scales = self._write(means, self._lost_by_owner.get(k, []))
        device = means[0].device if means else torch.device("cpu")
        return _pack(codes, scales, device)

    def _write(self, values: list[Tensor], lost: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Codes and scales of values and of what was lost before; `lost` becomes what is now."""
        if lost:
            torch._foreach_add_(values, lost)
        codes, scales = self._codec.encode(values)
        if lost:
            torch._foreach_copy_(lost, values)
            torch._foreach_sub_(lost, self._codec.decode(codes, scales))
        return codes, scales

    def _read(self, parcel: Tensor, pieces: Sequence[Piece]) -> list[Tensor]:
        """What was written for these pieces, float32."""
        scale_bytes = 4 * len(pieces) if self._codec.has_scales else 0
        codes = parcel[scale_bytes:].view(self._codec.dtype).split([p.size for p in pieces])
        scales = parcel[:scale_bytes].clone().view(torch.float32)  # wherever the parcel lies
        return self._codec.decode(list(codes), scales)

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


def _pack(codes: Sequence[Tensor], scales: Tensor, device: torch.device) -> Tensor:
    """One buffer: the scales, then the codes."""
    parts = [scales.contiguous().view(torch.uint8), *(code.view(torch.uint8) for code in codes)]
    return torch.cat([part.to(device) for part in parts])


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
