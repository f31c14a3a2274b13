"""How the center moves from round to round, and how far the workers have moved from it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from grawa.math.leaves import Leaves, Rows, Stack, wide
from grawa.math.norms import Norms
from grawa.seeding import generator
from grawa.strategies.protocol import State

SAMPLE = 2**14
"""Of a fragment with more parameters than this, only so many are looked at, chosen at random but
the same in every round, so that memory and time for it do not grow with the model. A cosine is then
right to about 0.01."""


class Moves:
    """Measures moves of a fragment's center, and the displacements of its workers.

        displacement_i = ||x_i - c||                     c the center before the round
        cosine         = <m, m'> / (||m|| ||m'||)        m, m' this round's c_new - c and the last's

    Args:
        center: the strategy's.
        norms: computes the norms of whole workers, also where this process has only a shard.
        most: number of parameters that are looked at, if there are more.
    """

    def __init__(self, center: Leaves, norms: Norms, most: int = SAMPLE) -> None:
        self._norms = norms
        dtypes = [wide(flat.dtype) for flat in center.flats]
        self._dtype = max(dtypes, key=lambda dtype: dtype.itemsize)
        places = center.places
        self._names = sorted(places, key=lambda name: (places[name].flat, places[name].offset))
        of_leaves = chosen([center[name].numel() for name in self._names], most)
        in_flats: list[list[Tensor]] = [[] for _ in center.flats]
        for name, place in zip(self._names, of_leaves, strict=True):
            in_flats[places[name].flat].append(place + places[name].offset)
        self._of_leaves = _beside(of_leaves, [center[name] for name in self._names])
        self._of_flats = _beside([torch.cat(parts) for parts in in_flats], center.flats)
        self._before = self._displaced = center.flats[0].new_zeros(0)
        self._last: Tensor | None = None
        self._next: Tensor | None = None

    def begin(self, params: Stack, state: State) -> None:
        """Called before a round, with what it will change."""
        self._before = self._of_center(state)
        self._displaced = self._of_workers(params) - self._before

    def end(self, state: State) -> Tensor:
        """Called after a round.

        Returns:
            (K, 2), each worker's displacement, and the cosine: NaN if there was no earlier round,
            or if the center did not move in one of the two.
        """
        move = self._of_center(state) - self._before
        last = torch.zeros_like(move) if self._last is None else self._last
        self._next = move
        # A sum's norm gives the inner product, so that one sum over a worker's shards is enough.
        norms = self._norms([torch.cat([self._displaced, move, last, move + last])])
        displacements, (new, old, both) = norms[:-3], norms[-3:]
        cosine = (both.square() - new.square() - old.square()) / (2.0 * new * old)
        return torch.stack([displacements, cosine.clamp(-1.0, 1.0).expand_as(displacements)], dim=1)

    def commit(self) -> None:
        """Called when the round counts: its move is the last one from now on."""
        self._last = self._next

    def forget(self) -> None:
        """Called when the center has become another one, so that the last move is not known."""
        self._last = None

    def _of_center(self, state: State) -> Tensor:
        """The center's parameters that are looked at, (1, S)."""
        return self._picked([flat.unsqueeze(0) for flat in state["center"].flats], self._of_flats)

    def _of_workers(self, params: Stack) -> Tensor:
        """Those of the workers, (K, S), from whole blocks if there are any."""
        if isinstance(params, Rows) and params.blocks:
            return self._picked(params.blocks, self._of_flats)
        rows = [params[name].reshape(len(params[name]), -1) for name in self._names]
        return self._picked(rows, self._of_leaves)

    def _picked(self, rows: Sequence[Tensor], places: Sequence[Tensor]) -> Tensor:
        device = self._before.device
        parts = [x.index_select(1, place) for x, place in zip(rows, places, strict=True)]
        return torch.cat([part.to(device, self._dtype) for part in parts], dim=1)


def chosen(sizes: Sequence[int], most: int) -> list[Tensor]:
    """Chooses parameters at random, one in each of `most` equal parts of all; all if there are few.

    Args:
        sizes: of each tensor.
        most: how many are chosen.

    Returns:
        The positions in each tensor, ascending.

    >>> chosen([2, 3], most=5)
    [tensor([0, 1]), tensor([0, 1, 2])]
    """
    total = sum(sizes)
    places = torch.arange(min(total, most))
    if total > most:
        within = torch.rand(most, generator=generator(0, "moves"), dtype=torch.float64)
        places = ((places + within) * (total / most)).long().clamp_max(total - 1)
    ends = torch.tensor(sizes).cumsum(0)
    parts = places.tensor_split(torch.searchsorted(places, ends[:-1]))
    return [part - (end - size) for part, end, size in zip(parts, ends, sizes, strict=True)]


def _beside(places: Sequence[Tensor], tensors: Sequence[Tensor]) -> list[Tensor]:
    """The positions on the device of the tensor that they are in."""
    return [place.to(tensor.device) for place, tensor in zip(places, tensors, strict=True)]
