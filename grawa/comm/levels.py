"""How means and rows get to all processes: in one level, or inside hosts first and then between."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from grawa.comm.carrier import Carrier
from grawa.comm.coded import coded_mean
from grawa.comm.compression import Compression
from grawa.comm.exchange import (
    bytes_of,
    exchange_mean,
    masses_of,
    mean_of_rows,
    own_row,
    reduce_chunk,
)
from grawa.comm.plan import Piece, Run, plan_of, runs_of
from grawa.comm.route import routes_of
from grawa.math.leaves import Leaves, Place, Stack, wide

Hosts = tuple[tuple[int, ...], ...]
"""The processes of each host."""


class Levels(Protocol):
    """What carries means and rows between all processes."""

    @property
    def flat(self) -> Carrier:
        """Between all processes in one level, for what can't be made host by host."""
        ...

    def __str__(self) -> str:
        """In words, for users."""
        ...

    def gather(self, own: Tensor) -> Callable[[], Tensor]:
        """See `Carrier.gather`."""
        ...

    def weighted_mean(
        self,
        num_hosted: int,
        rows: Stack,
        weights: list[list[float]],
        out: Leaves,
        compression: Compression | None,
    ) -> int:
        """The weighted mean of all workers' rows.

        Args:
            num_hosted: K.
            rows: name -> (K, *shape).
            weights: N lists of L numbers.
            out: where the mean is put.
            compression: sends differences from the last mean in fewer bits.

        Returns:
            The bytes that this process has sent.
        """
        ...

    def close(self) -> None:
        """Tells the others that this process will send nothing more."""
        ...


class OneLevel:
    """Every process exchanges with every other one.

    Args:
        carrier: between the processes.
    """

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = self.flat = carrier

    def __str__(self) -> str:
        return f"{self._carrier.num_processes} processes, by {self._carrier.name}"

    def gather(self, own: Tensor) -> Callable[[], Tensor]:
        """See `Carrier.gather`."""
        return self._carrier.gather(own)

    def weighted_mean(
        self,
        num_hosted: int,
        rows: Stack,
        weights: list[list[float]],
        out: Leaves,
        compression: Compression | None,
    ) -> int:
        """See `Levels.weighted_mean`."""
        if compression is not None and compression.knows(rows):
            return coded_mean(self._carrier, num_hosted, rows, weights, out, compression)
        sent = 0
        if self._carrier.num_processes == 1:
            mean_of_rows(rows, weights, out)
        else:
            sent = exchange_mean(self._carrier, num_hosted, rows, weights, out)
        if compression is not None and compression.reference is None:
            compression.start(out)
        return sent

    def close(self) -> None:
        """See `Levels.close`."""
        self._carrier.close()


class TwoLevels:
    """Processes of a host exchange among themselves first; then hosts exchange with each other.

    Each host has the same number of gateways, the first of its processes; a gateway's place is its
    number among them. In a mean, the gateways of a host own its sections: first each takes the
    mean of what its host says of its section, then the gateways of the same place on all hosts
    take the mean of these means, and then each hands out its section inside its host. A host sends
    2(H-1)/H models, however many processes it has. Means carry their mass, the sum of weights
    behind them, so that a mean of means is the mean of all.

    Args:
        hosts: the processes of each host.
        process: which of them this is.
        inside: between the processes of this host.
        across: between the gateways of this place; `None` on a process that is no gateway.
        flat: between all processes.
        reason: why these are the hosts, in words.

    Source: Bayatpour et al. (2017), "Scalable Reduction Collectives with Data Partitioning-based
    Multi-Leader Design", for several gateways of a host.
    """

    def __init__(
        self,
        hosts: Hosts,
        process: int,
        inside: Carrier,
        across: Carrier | None,
        flat: Carrier,
        reason: str,
    ) -> None:
        self._hosts, self.flat, self._reason = hosts, flat, reason
        self._host = next(h for h, members in enumerate(hosts) if process in members)
        self._gateways = tuple(range(min(map(len, hosts))))
        self._inside, self._across = inside, across

    def __str__(self) -> str:
        sizes = ", ".join(str(len(members)) for members in self._hosts)
        by = "" if self._across is None else f" by {self._across.name}"
        return (
            f"{len(self._hosts)} hosts with {sizes} processes ({self._reason}); inside by "
            f"{self._inside.name}, between hosts{by} a section of the model from each of the first "
            f"{len(self._gateways)}"
        )

    def gather(self, own: Tensor) -> Callable[[], Tensor]:
        """See `Carrier.gather`; only the first gateways send to other hosts."""
        arrive = self._inside.gather(own)
        return lambda: self._gathered(arrive())

    def _gathered(self, rows: Tensor) -> Tensor:
        """All processes' rows from those of this host: (P_h, C) -> (P, C)."""
        length = rows.shape[1]
        everyone = rows.new_empty(sum(map(len, self._hosts)), length)
        if self._across is not None and self._inside.process == 0:
            padded = rows.new_zeros(max(map(len, self._hosts)), length)
            padded[: len(rows)] = rows
            by_host = self._across.gather(padded.view(-1))().view(len(self._hosts), -1, length)
            for members, own in zip(self._hosts, by_host, strict=True):
                everyone[list(members)] = own[: len(members)].to(everyone.device)
        self._inside.wait_for_all()  # two gathers may be on their way at once
        size = everyone.numel()
        runs = [[Run(0, 0, size, (size,))], *([] for _ in self._members[1:])]
        self._inside.sections([everyone.view(-1)], runs, range(len(self._members)))
        return everyone

    @property
    def _members(self) -> tuple[int, ...]:
        return self._hosts[self._host]

    def weighted_mean(
        self,
        num_hosted: int,
        rows: Stack,
        weights: list[list[float]],
        out: Leaves,
        compression: Compression | None,
    ) -> int:
        """See `Levels.weighted_mean`; only what goes between hosts is sent in fewer bits."""
        masses = masses_of(weights, num_hosted)
        inside = [masses[p] for p in self._members]
        between = [[sum(c) for c in zip(*(masses[p] for p in m), strict=True)] for m in self._hosts]
        place = self._inside.process
        first = self._members[place] * num_hosted
        row = own_row(rows, weights[first : first + num_hosted], out)
        weighs = tuple(tuple(map(bool, own)) for own in inside)
        routes = routes_of(out.form, weighs, self._gateways, 1, place, self._inside.most_bytes)
        section = _Section(plan_of(out.form, len(self._gateways)).sections, place, out)
        sent = 0
        owned = iter(section.part.values())
        for i, route in enumerate(routes):
            if i:
                self._inside.wait_for_all()
            places = [next(owned) for _ in route.owned]
            sent += reduce_chunk(self._inside, route, row, inside, places)
        if self._across is not None:
            sent += section.exchange(self._across, between, compression)
        for i, route in enumerate(routes):
            if i:
                self._inside.wait_for_all()
            flats = route.of(out.flats)
            self._inside.sections(flats, route.sections, range(len(self._members)))
            sent += bytes_of(flats, route.sections[place]) * (len(self._members) - 1)
        return sent

    def close(self) -> None:
        """See `Levels.close`."""
        self.flat.close()
        self._inside.close()
        if self._across is not None:
            self._across.close()


class _Section:
    """What a gateway owns: its host's mean of it, and its place in the mean of all.

    Args:
        sections: the pieces of each gateway's section.
        place: which gateway this is, if it is one.
        out: where the mean of all is put.
    """

    def __init__(self, sections: Sequence[Sequence[Piece]], place: int, out: Leaves) -> None:
        self.pieces = sections[place] if place < len(sections) else ()
        places: dict[str, Place] = {}
        runs = runs_of(self.pieces)
        found = iter(self.pieces)
        for i, run in enumerate(runs):
            for piece in (next(found) for _ in run.sizes):
                form = torch.Size([piece.size])
                places[str(len(places))] = Place(i, piece.start - run.start, form, (1,))
        self._runs, self._out = runs, [run.of(out.flats) for run in runs]
        self.part = Leaves([torch.empty_like(x, dtype=wide(x.dtype)) for x in self._out], places)

    def exchange(
        self, across: Carrier, masses: Sequence[Sequence[float]], compression: Compression | None
    ) -> int:
        """Takes the mean of all hosts' means.

        Args:
            across: between the gateways of this place.
            masses: (H, L), each host's weight of each leaf.
            compression: of the whole mean; what is known of this section is handed to its own.

        Returns:
            The bytes that this process has sent.
        """
        if not self.pieces:
            return 0
        mean = Leaves(
            [
                x if x.dtype == y.dtype else torch.empty_like(y)
                for x, y in zip(self._out, self.part.flats, strict=True)
            ],
            self.part.places,
        )
        weights = [[own[piece.leaf] for piece in self.pieces] for own in masses]
        rows = dict(zip(self.part, self.part.rows, strict=True))
        own = None if compression is None else compression.section(self._runs, mean)
        sent = OneLevel(across).weighted_mean(1, rows, weights, mean, own)
        for place, flat in zip(self._out, mean.flats, strict=True):
            if place is not flat:
                place.copy_(flat)
        return sent
