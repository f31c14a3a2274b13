"""The exchange behind a weighted mean: rows go to the owners of sections, means come back."""

from collections.abc import Iterable, Sequence
from itertools import chain

import torch
from torch import Tensor

from grawa.comm.carrier import Carrier
from grawa.comm.plan import Chunk, Piece, Run, chunks_of
from grawa.comm.route import route_of
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
    masses = _masses(weights, num_hosted)
    own = weights[carrier.process * num_hosted :][:num_hosted]
    row, spare = _row_of_process(rows, own, out)
    return sum(
        _exchange_chunk(carrier, num_hosted, chunk, row, spare, masses, out.flats)
        for chunk in chunks_of(out.form, carrier.most_bytes)
    )


def _exchange_chunk(
    carrier: Carrier,
    num_hosted: int,
    chunk: Chunk,
    leaves: Sequence[Tensor],
    spare: Sequence[Tensor],
    masses: Sequence[Sequence[float]],
    out: Sequence[Tensor],
) -> int:
    """The weighted mean of a chunk.

    Args:
        carrier: between the processes.
        num_hosted: K.
        chunk: which part of the flat tensors.
        leaves: the row of this process, L one-dimensional tensors.
        spare: flat tensors in which it may be staged.
        masses: (P, L), each process's weight of each leaf.
        out: the flat tensors of the mean.

    Returns:
        The bytes that this process has sent.
    """
    me, row, flats = carrier.process, parts_of(leaves, chunk.parts), chunk.of(out)
    masses = [[own[part.leaf] for part in chunk.parts] for own in masses]
    weighs = tuple(tuple(map(bool, own)) for own in masses)
    route = route_of(chunk.form, weighs, num_hosted, me)
    spare = chunk.of(spare)
    staged = carrier.staging(spare)
    if num_hosted == 1 or staged[0] is not spare[0]:
        _write(staged, chain(*route.leaving), parts_of(row, route.sent))
    arrived = carrier.rows(staged, route.leaving, route.arriving)
    said = [_pieces(runs, got) for runs, got in zip(route.arriving, arrived, strict=True)]
    said[me] = parts_of(row, route.heavy)
    places = _pieces(route.sections[me], [run.of(flats) for run in route.sections[me]])
    mean_of_pieces(places, route.owned, said, masses)
    if me not in route.receivers:  # it alone has weight, so that its row is the mean
        torch._foreach_copy_([part.of(out) for part in chunk.parts], row)
    carrier.sections(flats, route.sections, route.receivers)
    others = sum(p != me for p in route.receivers)
    return _bytes(staged, chain(*route.leaving)) + others * _bytes(flats, route.sections[me])


def _masses(weights: list[list[float]], num_hosted: int) -> list[list[float]]:
    """Each process's weight of each leaf, from its K workers': (N, L) -> (P, L)."""
    if num_hosted == 1:
        return weights
    by_process = [weights[i : i + num_hosted] for i in range(0, len(weights), num_hosted)]
    return [[sum(column) for column in zip(*own, strict=True)] for own in by_process]


def _row_of_process(
    rows: Stack, weights: list[list[float]], out: Leaves
) -> tuple[list[Tensor], list[Tensor]]:
    """The hosted workers' weighted mean, or the only row itself.

    Returns:
        Its leaves in memory order, and flat tensors in which it may be staged: where they are the
        mean's own, it lies there already. A mean is wider than `out` if that is 16-bit.
    """
    if len(weights) == 1:
        return in_memory_order(rows.values(), out.places.values()), out.flats
    mean = out.wide_like()
    mean_of_rows(rows, weights, mean)
    return in_memory_order(mean.rows, out.places.values()), mean.flats


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


def checked_weights(rows: Stack, weights: Tensor) -> list[list[float]]:
    """Weights as Python numbers, one for each leaf, if they and the rows can make a mean.

    Args:
        rows: name -> (K, *shape), L of them.
        weights: (N, L) or (N, 1).

    Returns:
        N lists of L numbers.

    Raises:
        DivergedError: if a weight is not finite.
        UserError: if a row is of a dtype that can't be averaged.
        ValueError: if a weight is negative, or a column has no positive one.
    """
    for name, row in rows.items():
        if row.dtype not in AVERAGED:
            raise UserError(
                f"{name!r} is of {row.dtype}, which can't be averaged: only "
                f"{', '.join(map(str, AVERAGED))} can; freeze it, or convert it before training"
            )
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


def _pieces(runs: Iterable[Run], values: Iterable[Tensor]) -> list[Tensor]:
    """What runs hold, piece by piece."""
    return [p for run, own in zip(runs, values, strict=True) for p in own.split(run.sizes)]


def _write(staged: Sequence[Tensor], runs: Iterable[Run], values: list[Tensor]) -> None:
    places = [piece for run in runs for piece in run.of(staged).split(run.sizes)]
    if places:
        torch._foreach_copy_(places, values)


def _bytes(flats: Sequence[Tensor], runs: Iterable[Run]) -> int:
    return sum((run.stop - run.start) * flats[run.flat].element_size() for run in runs)
