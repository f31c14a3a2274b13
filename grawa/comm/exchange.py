"""The exchange behind a weighted mean: rows go to the owners of sections, means come back."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from grawa.comm.carrier import Carrier
from grawa.comm.plan import Piece, Run
from grawa.comm.route import Route, routes_of
from grawa.errors import DivergedError, UserError
from grawa.math.leaves import Leaves, Place, Stack
from grawa.math.mean import weighted_mean_

AVERAGED = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""The dtypes of what can be averaged."""


def exchange_mean(
    carrier: Carrier, num_hosted: int, rows: Stack, weights: list[list[float]], out: Leaves
) -> int:
    """The weighted mean of all workers' rows, between at least two processes.

    Args:
        carrier: between the processes.
        num_hosted: K.
        rows: name -> (K, *shape).
        weights: N lists of L numbers.
        out: where the mean is put.

    Returns:
        The bytes that this process has sent.
    """
    own = weights[carrier.process * num_hosted :][:num_hosted]
    row = own_row(rows, own, out)
    return mean_of_processes(carrier, num_hosted, row, masses_of(weights, num_hosted), out)


class Row(NamedTuple):
    """A process's own weighted mean."""

    leaves: list[Tensor]
    """L one-dimensional tensors, as the leaves lie in memory."""
    spare: list[Tensor]
    """Flat tensors in which it may be staged."""
    lies_there: bool
    """Whether it lies in these already."""


def mean_of_processes(
    carrier: Carrier, num_hosted: int, row: Row, masses: Sequence[Sequence[float]], out: Leaves
) -> int:
    """The weighted mean of all processes' rows.

    Args:
        carrier: between the processes.
        num_hosted: K.
        row: of this process.
        masses: (P, L), each process's weight of each leaf.
        out: where the mean is put.

    Returns:
        The bytes that this process has sent.
    """
    me = carrier.process
    heavy = [p for p, own in enumerate(masses) if any(own)]
    owners = tuple(p for p in range(len(masses)) if heavy != [p])
    if me not in owners:  # it alone has weight, so that its row is the mean
        torch._foreach_copy_(in_memory_order(out.rows, out.places.values()), row.leaves)
    weighs = tuple(tuple(map(bool, own)) for own in masses)
    sent = 0
    for route in routes_of(out.form, weighs, owners, num_hosted, me, carrier.most_bytes):
        flats = route.of(out.flats)
        places = [piece for run in route.sections[me] for piece in _split(run, flats)]
        sent += reduce_chunk(carrier, route, row, masses, places)
        carrier.sections(flats, route.sections, owners)
        sent += sum(p != me for p in owners) * bytes_of(flats, route.sections[me])
    return sent


def reduce_chunk(
    carrier: Carrier,
    route: Route,
    row: Row,
    masses: Sequence[Sequence[float]],
    places: Sequence[Tensor],
) -> int:
    """Takes the weighted mean of what this process owns of a chunk.

    Args:
        carrier: between the processes.
        route: of this process.
        row: of this process.
        masses: (P, L), each process's weight of each leaf.
        places: where the mean of each owned piece is put; unchanged where nobody has weight.

    Returns:
        The bytes that this process has sent.
    """
    spare = route.of(row.spare)
    staged = carrier.staging(spare)
    if not row.lies_there or staged[0] is not spare[0]:
        _write(staged, chain(*route.leaving), parts_of(row.leaves, route.sent))
    arrived = carrier.rows(staged, route.leaving, route.arriving)
    said = [
        [piece for run, values in zip(runs, got, strict=True) for piece in values.split(run.sizes)]
        for runs, got in zip(route.arriving, arrived, strict=True)
    ]
    said[carrier.process] = parts_of(row.leaves, route.heavy)
    mean_of_pieces(places, route.owned, said, masses)
    return bytes_of(staged, chain(*route.leaving))


def masses_of(weights: list[list[float]], num_hosted: int) -> list[list[float]]:
    """Each process's weight of each leaf, from its K workers': (N, L) -> (P, L)."""
    if num_hosted == 1:
        return weights
    by_process = [weights[i : i + num_hosted] for i in range(0, len(weights), num_hosted)]
    return [[sum(column) for column in zip(*own, strict=True)] for own in by_process]


def own_row(rows: Stack, weights: list[list[float]], out: Leaves) -> Row:
    """The hosted workers' weighted mean, wider than `out` if that is 16-bit; or the only row."""
    if len(weights) == 1:
        return Row(in_memory_order(rows.values(), out.places.values()), out.flats, False)
    mean = out.wide_like()
    mean_of_rows(rows, weights, mean)
    return Row(in_memory_order(mean.rows, out.places.values()), mean.flats, True)


def in_memory_order(
    stacks: Iterable[Tensor], places: Iterable[Place], row: int = 0
) -> list[Tensor]:
    """One row of some stacks as it lies in memory.

    Args:
        stacks: (K, *shape) each.
        places: where the leaves are to lie.
        row: which of the K rows.

    Returns:
        One-dimensional tensors: views, or copies where a row lies otherwise than its place.
    """
    found = []
    for stack, place in zip(stacks, places, strict=True):
        if stack.stride()[1:] == place.stride:
            start = stack.storage_offset() + row * stack.stride(0)
            found.append(stack.as_strided((place.shape.numel(),), (1,), start))
        else:
            form = stack.new_empty_strided(place.shape, place.stride)
            found.append(form.copy_(stack[row]).as_strided((form.numel(),), (1,)))
    return found


def parts_of(leaves: Sequence[Tensor], pieces: Iterable[Piece]) -> list[Tensor]:
    """The pieces of one-dimensional leaves."""
    return [
        leaves[p.leaf]
        if p.size == leaves[p.leaf].numel()
        else leaves[p.leaf][p.offset : p.offset + p.size]
        for p in pieces
    ]


def mean_of_pieces(
    mean: Sequence[Tensor],
    pieces: Sequence[Piece],
    said: Iterable[Sequence[Tensor]],
    masses: Sequence[Sequence[float]],
) -> None:
    """The weighted mean of what the processes have sent of some pieces.

    Args:
        mean: where it is put, a tensor for each piece.
        pieces: which.
        said: what each process has sent, of the pieces in which it has weight.
        masses: each process's weight of each leaf.
    """
    weights = [[own[piece.leaf] for piece in pieces] for own in masses]
    rows = (
        # Pieces without weight were not sent and are not read: the mean is only a placeholder.
        [next(found) if weight > 0 else place for weight, place in zip(own, mean, strict=True)]
        for found, own in zip(map(iter, said), weights, strict=True)
    )
    weighted_mean_(mean, rows, weights)


def mean_of_rows(rows: Stack, weights: Sequence[Sequence[float]], out: Leaves) -> None:
    """The weighted mean of the rows of one stack, into `out`; a column without weight is left."""
    weighted_mean_(
        list(out.values()),
        zip(*(leaf.unbind(0) for leaf in rows.values()), strict=True),
        weights,
    )


def check_dtypes(rows: Stack) -> None:
    """Refuses rows of a dtype that can't be averaged."""
    for name, row in rows.items():
        if row.dtype not in AVERAGED:
            raise UserError(
                f"{name!r} is of {row.dtype}, which can't be averaged: only "
                f"{', '.join(map(str, AVERAGED))} can; freeze it, or convert it before training"
            )


def checked_weights(rows: Stack, weights: Tensor) -> list[list[float]]:
    """Weights as Python numbers, one for each leaf, if they and the rows can make a mean.

    Args:
        rows: name -> (K, *shape), L of them.
        weights: (N, L) or (N, 1).

    Returns:
        N lists of L numbers.

    Raises:
        DivergedError: if a weight is not finite.
        ValueError: if a weight is negative, or a column has no positive one.
    """
    check_dtypes(rows)
    if not bool(torch.isfinite(weights).all()):
        raise DivergedError(
            f"a worker's weight is not finite, because its score is not: {weights.tolist()}; the "
            "guard keeps such workers out"
        )
    if bool((weights < 0).any()) or not bool((weights.sum(dim=0) > 0).all()):
        raise ValueError(
            "weights must not be negative, and each column needs a positive sum, got "
            f"{weights.tolist()}"
        )
    lists: list[list[float]] = weights.expand(-1, len(rows)).tolist()
    return lists


def _split(run: Run, flats: Sequence[Tensor]) -> Iterable[Tensor]:
    """The pieces of a run."""
    pieces: Iterable[Tensor] = run.of(flats).split(run.sizes)
    return pieces


def _write(staged: Sequence[Tensor], runs: Iterable[Run], values: list[Tensor]) -> None:
    places = [piece for run in runs for piece in _split(run, staged)]
    if places:
        torch._foreach_copy_(places, values)


def bytes_of(flats: Sequence[Tensor], runs: Iterable[Run]) -> int:
    """The bytes of runs of flat tensors."""
    return sum((run.stop - run.start) * flats[run.flat].element_size() for run in runs)
