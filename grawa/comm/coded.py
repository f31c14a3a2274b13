"""The exchange of a mean in fewer bits: as `exchange`, but what travels are coded differences."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate, islice, pairwise

import torch
from torch import Tensor

from grawa.comm.carrier import Carrier
from grawa.comm.compression import Compression, Seat
from grawa.comm.exchange import in_memory_order, mean_of_pieces, parts_of
from grawa.comm.parcel import Batches, Parcel, batches, cut, num_bytes
from grawa.comm.plan import Piece, Run, plan_of, weighty
from grawa.errors import DivergedError
from grawa.math.leaves import Leaves, Stack

Combine = Callable[[Sequence[Tensor], Sequence[Piece], Sequence[Sequence[Tensor]]], None]
"""Puts into the first what is made of some pieces, of which each worker has said the last, its
differences; those without weight have said nothing."""


def coded_mean(
    carrier: Carrier,
    num_hosted: int,
    rows: Stack,
    weights: list[list[float]],
    out: Leaves,
    compression: Compression,
    combine: Combine | None = None,
) -> int:
    """The weighted mean of all workers' rows, by differences from the compression's reference.

    Every worker owns a section, however many a process hosts, so that every arrangement of
    workers in processes gives the same bits. If the mean is not finite, every process raises
    `DivergedError`.

    Args:
        carrier: between the processes.
        num_hosted: K.
        rows: name -> (K, *shape).
        weights: N lists of L numbers.
        out: where the mean is put.
        compression: knows these rows; its reference becomes the mean.
        combine: makes something else of the differences, which then takes the place of their mean.

    Returns:
        The bytes that this process has sent; alone, those that N processes would have sent.
    """
    mean = _CodedMean(carrier, num_hosted, rows, weights, compression, combine)
    mean.move(mean.swap())
    if out.places == mean.reference.places:
        torch._foreach_copy_(out.flats, mean.reference.flats)
    else:
        torch._foreach_copy_(list(out.values()), list(mean.reference.values()))
    return mean.bytes_sent()


class _CodedMean:
    """One mean on its way."""

    def __init__(
        self,
        carrier: Carrier,
        num_hosted: int,
        rows: Stack,
        weights: list[list[float]],
        compression: Compression,
        combine: Combine | None,
    ) -> None:
        assert compression.reference is not None, "the caller asks whether it knows the rows"
        self.reference = compression.reference
        compression.sit(Seat(len(weights), num_hosted, carrier.process))
        self._carrier = carrier
        self._hosted = num_hosted
        self._rows = rows
        self._weights = weights
        self._combine = combine or partial(_mean_of_differences, weights)
        self._compression = compression
        self._codec = compression.codec
        sections = plan_of(self.reference.form, len(weights)).sections
        self._sections = [batches(cut(own)) for own in sections]
        self._said = [
            [[weighty(pieces, masses) for pieces in own] for own in self._sections]
            for masses in weights
        ]
        self._sizes = [[num_bytes(self._codec, own) for own in its] for its in self._said]
        self._mean_sizes = [num_bytes(self._codec, own) for own in self._sections]
        self._count_busiest()

    def _count_busiest(self) -> None:
        rows = max(sum(its) - its[i] for i, its in enumerate(self._sizes))
        means = max(self._mean_sizes) * (len(self._sections) - 1)
        self._compression.most_bytes = rows + means

    def _of(self, process: int) -> range:
        """The workers that a process hosts, whose sections it owns."""
        return range(process * self._hosted, (process + 1) * self._hosted)

    def bytes_sent(self) -> int:
        """See `coded_mean`."""
        mine = self._of(self._carrier.process)
        if self._carrier.num_processes == 1:  # workers stand for processes
            away = sum(sum(its) - its[i] for i, its in enumerate(self._sizes))
            return away + sum(self._mean_sizes) * (len(mine) - 1)
        away = sum(n for i in mine for s, n in enumerate(self._sizes[i]) if s not in mine)
        means = sum(self._mean_sizes[s] for s in mine)
        return away + means * (self._carrier.num_processes - 1)

    def swap(self) -> list[list[Parcel]]:
        """Phase one: what every worker says of each section that a hosted worker owns.

        Returns:
            For each of the K sections, N parcels.
        """
        processes = range(self._carrier.num_processes)
        mine = self._of(self._carrier.process)
        layouts = [self._runs_from(p) for p in processes]
        most = self._hosted * sum(self._mean_sizes)  # if no weight is zero; the same everywhere
        device = self.reference.flats[0].device
        staged = self._carrier.staging([torch.empty(most, dtype=torch.uint8, device=device)])
        leaving = layouts[mine.start // self._hosted]
        self._write_rows(staged, leaving)
        arriving = [[layout[self._carrier.process]] for layout in layouts]
        arrived = self._carrier.rows(staged, [[run] for run in leaving], arriving)
        found: list[list[Parcel]] = [[] for _ in mine]
        for p, (values,) in enumerate(arrived):
            parts = iter(values.split(arriving[p][0].sizes))
            for i in self._of(p):
                for k, s in enumerate(mine):
                    found[k].append(Parcel(self._codec, self._said[i][s], next(parts)))
        return found

    def _runs_from(self, sender: int) -> list[Run]:
        """For each process, where a sender's parcels for it lie among all that it sends."""
        sizes = [
            tuple(self._sizes[i][s] for i in self._of(sender) for s in self._of(p))
            for p in range(self._carrier.num_processes)
        ]
        bounds = pairwise(accumulate(map(sum, sizes), initial=0))
        return [Run(0, a, b, own) for (a, b), own in zip(bounds, sizes, strict=True)]

    def _write_rows(self, staged: Sequence[Tensor], runs: Sequence[Run]) -> None:
        parts = iter([part for run in runs for part in run.of(staged).split(run.sizes)])
        mine = self._of(self._carrier.process)
        places = self.reference.places.values()
        leaves = [
            in_memory_order(self._rows.values(), places, k) if any(self._sizes[i]) else []
            for k, i in enumerate(mine)
        ]
        for p in range(self._carrier.num_processes):
            for k, i in enumerate(mine):
                for s in self._of(p):
                    said = self._said[i][s]
                    self._write_row(k, leaves[k], said, Parcel(self._codec, said, next(parts)))

    def _write_row(self, k: int, leaves: list[Tensor], said: Batches, parcel: Parcel) -> None:
        """A hosted worker's differences in a section."""
        for batch, pieces in enumerate(said):
            known = [p.of(self.reference.flats) for p in pieces]
            values = [
                (x - y).to(torch.float32)
                for x, y in zip(parts_of(leaves, pieces), known, strict=True)
            ]
            lost = []
            if self._codec.loses:
                flats = self._compression.lost_by_worker(k, self.reference)
                lost = [p.of(flats) for p in pieces]
            self._write(parcel, batch, values, lost)

    def move(self, arrived: Sequence[Sequence[Parcel]]) -> None:
        """Phase two: the owners' mean differences to all, who move the reference by them."""
        bounds = list(accumulate(self._mean_sizes, initial=0))
        device = self.reference.flats[0].device
        means = [torch.empty(bounds[-1], dtype=torch.uint8, device=device)]
        parcels = [
            Parcel(self._codec, own, part)
            for own, part in zip(self._sections, means[0].split(self._mean_sizes), strict=True)
        ]
        for k, s in enumerate(self._of(self._carrier.process)):
            self._write_section(k, self._sections[s], arrived[k], parcels[s])
        processes = range(self._carrier.num_processes)
        owned = [
            [Run(0, bounds[its.start], bounds[its.stop], ())] for its in map(self._of, processes)
        ]
        self._carrier.sections(means, owned, processes)
        norms: list[Tensor] = []
        for own, parcel in zip(self._sections, parcels, strict=True):
            for batch, pieces in enumerate(own):
                moves = parcel.read(batch)
                places = [piece.of(self.reference.flats) for piece in pieces]
                torch._foreach_add_(places, [m.to(x) for m, x in zip(moves, places, strict=True)])
                norms += torch._foreach_norm(moves)
        if norms and not bool(torch.isfinite(torch.stack(norms)).all()):
            raise DivergedError(
                "the mean of the workers' parameters is not finite; the guard keeps workers out "
                "that have diverged"
            )

    def _write_section(
        self, k: int, own: Batches, arrived: Sequence[Parcel], parcel: Parcel
    ) -> None:
        """The mean of what workers say of a hosted worker's section, in the order of workers."""
        flats = self.reference.flats
        lost: Iterator[Tensor] = iter(())
        if self._codec.loses:
            forms = [piece.of(flats) for pieces in own for piece in pieces]
            lost = iter(self._compression.lost_by_owner(k, forms))
        for batch, pieces in enumerate(own):
            mean = [torch.zeros(p.size, device=p.of(flats).device) for p in pieces]
            self._combine(mean, pieces, [its.read(batch) for its in arrived])
            self._write(parcel, batch, mean, list(islice(lost, len(pieces))))

    def _write(self, parcel: Parcel, batch: int, values: list[Tensor], lost: list[Tensor]) -> None:
        """Values, with what was lost before; `lost` becomes what is now."""
        if lost:
            torch._foreach_add_(values, lost)
        parcel.write(batch, values)
        if lost:
            torch._foreach_sub_(values, parcel.read(batch))
            self._compression.keep(lost, values)


def _mean_of_differences(
    weights: Sequence[Sequence[float]],
    mean: Sequence[Tensor],
    pieces: Sequence[Piece],
    said: Sequence[Sequence[Tensor]],
) -> None:
    mean_of_pieces(mean, pieces, said, weights)
