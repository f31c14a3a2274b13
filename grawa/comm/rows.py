"""All workers' rows side by side: functions of each column, and distances between workers.

As behind a mean (`grawa.comm.plan`), each process sends its rows to the owners of sections; but
the rows of all its workers, not their mean. Each flat tensor counts as one leaf, since a function
of columns need not know where parameters begin. There are N sections in every arrangement of the
workers, which the owners cut up in the same way, so that every arrangement gives the same bits.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from grawa.comm.carrier import Carrier
from grawa.comm.coded import Combine, coded_mean
from grawa.comm.compression import Compression
from grawa.comm.exchange import bytes_of, check_dtypes
from grawa.comm.plan import Piece, Run, plan_of
from grawa.comm.route import Route, routes_of
from grawa.math.columns import RowFunction, reduce_columns_, squared_distances
from grawa.math.leaves import Form, Leaves, Rows, Stack


def checked_active(rows: Stack, active: Tensor) -> list[bool]:
    """Who takes part, as Python values, if somebody does and the rows can be reduced.

    Args:
        rows: name -> (K, *shape).
        active: (N,).

    Returns:
        N values.

    Raises:
        ValueError: if nobody takes part.
    """
    check_dtypes(rows)
    if not bool(active.any()):
        raise ValueError("at least one worker must take part")
    found: list[bool] = active.tolist()
    return found


def reduce_rows(
    carrier: Carrier,
    rows: Stack,
    function: RowFunction,
    active: Sequence[bool],
    out: Leaves,
    compression: Compression | None,
) -> int:
    """Applies a function of columns to the rows of all workers that take part.

    Args:
        carrier: between the processes.
        rows: name -> (K, *shape).
        function: of columns.
        active: N values.
        out: where the result is put.
        compression: sends differences from the last result in fewer bits.

    Returns:
        The bytes that this process has sent; in fewer bits alone, those that N would have sent.
    """
    if not rows:
        return 0
    if compression is not None and compression.knows(rows):
        assert compression.reference is not None, "it knows the rows"
        hosted = len(active) // carrier.num_processes
        weights = [[float(its)] * len(rows) for its in active]
        combine = _reduced_differences(function, compression.reference)
        return coded_mean(carrier, hosted, rows, weights, out, compression, combine)
    sent = _exchange_rows(carrier, rows, function, active, out)
    if compression is not None:
        compression.start(out)
    return sent


def _exchange_rows(
    carrier: Carrier, rows: Stack, function: RowFunction, active: Sequence[bool], out: Leaves
) -> int:
    swap = _Swap(carrier, rows, active, out)
    everyone = range(carrier.num_processes)
    for route in swap.routes:
        flats, own = route.of(out.flats), route.sections[carrier.process]
        places = chain(*(run.of(flats).split(run.sizes) for run in own))
        for place, parts in zip(places, swap.arrived(route), strict=True):
            reduce_columns_(place, parts, function)
        carrier.sections(flats, route.sections, everyone)
        swap.sent += bytes_of(flats, own) * (len(everyone) - 1)
    return swap.sent


def _reduced_differences(function: RowFunction, reference: Leaves) -> Combine:
    """Applies a function of columns to rows that have travelled as differences from a reference."""

    def combine(
        mean: Sequence[Tensor], pieces: Sequence[Piece], said: Sequence[Sequence[Tensor]]
    ) -> None:
        for i, (place, piece) in enumerate(zip(mean, pieces, strict=True)):
            known = piece.of(reference.flats)
            found = torch.empty_like(known)
            reduce_columns_(found, [known + its[i] for its in said if its], function)
            place.copy_(found - known)

    return combine


def squares_by_section(carrier: Carrier, rows: Stack, active: Sequence[bool]) -> tuple[Tensor, int]:
    """Squared distances between the workers that take part, in each of this process's sections.

    Args:
        carrier: between the processes.
        rows: name -> (K, *shape).
        active: N values.

    Returns:
        (K, M (M-1) / 2), in the order of `squared_distances`, float64, on the CPU; and the bytes
        that this process has sent.
    """
    swap = _Swap(carrier, rows, active, Leaves.like(rows))
    found: list[list[Tensor]] = [[] for _ in swap.owned]
    sections = iter(k for k, pieces in enumerate(swap.owned) for _ in pieces)
    for route in swap.routes:
        for parts in swap.arrived(route):
            found[next(sections)].append(squared_distances(parts))
        carrier.wait_for_all()
    size = sum(active) * (sum(active) - 1) // 2
    squares = torch.zeros(len(found), size, dtype=torch.float64)
    for total, own in zip(squares, found, strict=True):
        for part in own:
            total += part.cpu()
    return squares, swap.sent


def distances_of(squares: Tensor, active: Tensor) -> Tensor:
    """Distances between all workers, from squared ones in each section.

    Args:
        squares: (N, M (M-1) / 2), from `squares_by_section` of all processes.
        active: (N,).

    Returns:
        (N, N), infinite for a worker that is left out, and where a distance is not a number; zero
        on the diagonal of the others.
    """
    workers = torch.where(active)[0]
    distances = torch.full((len(active), len(active)), torch.inf, dtype=torch.float64)
    distances[workers, workers] = 0.0
    first, second = workers[torch.triu_indices(len(workers), len(workers), offset=1)]
    known = squares.sum(dim=0).sqrt().nan_to_num(nan=torch.inf, posinf=torch.inf)
    distances[first, second] = known
    distances[second, first] = known
    return distances


def flat_form(form: Form) -> Form:
    """The form of leaves in the same flat tensors, of which each fills one."""
    return Form(form.flats, tuple((i, 0, numel) for i, (numel, _) in enumerate(form.flats)))


class _Swap:
    """Brings all workers' rows of each section to its owner, a chunk at a time.

    Args:
        carrier: between the processes.
        rows: name -> (K, *shape).
        active: N values.
        scratch: leaves of the form of a row, which are overwritten.

    Attributes:
        routes: of this process, one for each chunk.
        owned: the pieces of each of its K sections.
        sent: the bytes that it has sent.
    """

    def __init__(
        self, carrier: Carrier, rows: Stack, active: Sequence[bool], scratch: Leaves
    ) -> None:
        processes = range(carrier.num_processes)
        me, hosted = carrier.process, len(active) // len(processes)
        self._carrier = carrier
        self._taking_part = [
            [k for k in range(hosted) if active[p * hosted + k]] for p in processes
        ]
        self._flats = _flats_of(rows, hosted, self._taking_part[me], scratch)
        form = flat_form(scratch.form)
        weighs = tuple((bool(own),) * len(form.flats) for own in self._taking_part)
        most = carrier.most_bytes and max(1, carrier.most_bytes // hosted)
        self.routes = routes_of(form, weighs, tuple(processes), hosted, me, most)
        self.owned = plan_of(form, len(active)).sections[me * hosted : (me + 1) * hosted]
        self.sent = 0

    def arrived(self, route: Route) -> Iterator[tuple[Tensor, ...]]:
        """Exchanges a chunk; collective.

        Args:
            route: of this process, for the chunk.

        Returns:
            For each piece that this process owns, what the M workers that take part say of it.
        """
        me = self._carrier.process
        spare = [flat for own in self._flats for flat in route.of(own)]
        staged = self._carrier.staging(spare)
        of_workers = partial(self._of_workers, len(route.bounds))
        leaving = [of_workers(me, runs) for runs in route.leaving]
        arriving = [of_workers(p, runs) for p, runs in enumerate(route.arriving)]
        runs = list(chain(*leaving))
        if runs and staged[0] is not spare[0]:
            torch._foreach_copy_([r.of(staged) for r in runs], [r.of(spare) for r in runs])
        arrived = self._carrier.rows(staged, leaving, arriving)
        self.sent += bytes_of(staged, runs)
        own = route.sections[me]
        arrived[me] = [run.of(spare) for run in of_workers(me, own)]
        by_worker = (
            chain(*(values.split(run.sizes) for run, values in zip(own, row, strict=True)))
            for its in arrived
            for row in _rows(its, len(own))
        )
        return zip(*by_worker, strict=True)

    def _of_workers(self, num_flats: int, process: int, runs: Sequence[Run]) -> list[Run]:
        """Runs in the flat tensors of each worker of a process that takes part, side by side."""
        return [
            run._replace(flat=k * num_flats + run.flat)
            for k in self._taking_part[process]
            for run in runs
        ]


def _rows(values: Sequence[Tensor], each: int) -> Iterator[Sequence[Tensor]]:
    """What one worker after another says, in so many tensors each."""
    return (values[i : i + each] for i in range(0, len(values), max(1, each)))


def _flats_of(
    rows: Stack, hosted: int, taking_part: Sequence[int], scratch: Leaves
) -> list[list[Tensor]]:
    """The flat tensors of each hosted worker's row, without meaning for those who are left out."""
    if isinstance(rows, Rows) and rows.blocks:
        return [list(flats) for flats in zip(*(b.unbind() for b in rows.blocks), strict=True)]
    found = [scratch]
    for _ in range(1, hosted):
        found.append(Leaves([torch.empty_like(x) for x in scratch.flats], scratch.places))
    for k in taking_part:
        torch._foreach_copy_(list(found[k].values()), [values[k] for values in rows.values()])
    return [leaves.flats for leaves in found]
