"""What a round moves: the hosted workers as they train, or a copy of them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from grawa.math.leaves import Rows, copy_, side_by_side


class Target(NamedTuple):
    """The parameters of a fragment, and the buffers that are averaged with it, if any."""

    params: Rows
    floats: Rows
    """Floating-point buffers."""
    others: Rows
    """All other buffers."""


class Shadow:
    """A copy of the hosted workers, on which a round can run while they train on.

    It takes the memory of two copies of what the round moves. `take` and `give`, where the workers
    train, are one pass over it each; the rest is done where the round is.

    Args:
        params: a fragment's parameters, as they train.
    """

    def __init__(self, params: Rows) -> None:
        self._before = Target(params.twin(), Rows(), Rows())
        self._params = params.twin()

    def take(self, live: Target) -> None:
        """Copies the workers."""
        copy_(self._before.params, live.params)
        self._before = Target(self._before.params, _copy(live.floats), _copy(live.others))

    def target(self) -> Target:
        """The copies that the round may move, as the workers were; the same memory each time."""
        copy_(self._params, self._before.params)
        others = self._before.others
        self._moved = Target(self._params, _copy(self._before.floats), _copy(others))
        return self._moved

    def finish(self, reset: Sequence[int]) -> None:
        """The round has moved the copies.

        Args:
            reset: hosted workers that are to be put where their copies are, since their own
                parameters are not to be built on.
        """
        for before, moved in zip(self._before, self._moved, strict=True):
            for k in reset:
                _put_row(before, moved, k)
        for before, moved in zip(self._before[:2], self._moved[:2], strict=True):
            if moved:
                torch._foreach_sub_(*reversed(side_by_side(before, moved)))

    def give(self, live: Target, reset: Sequence[int]) -> None:
        """Moves the workers as far as the round has moved their copies.

        Args:
            live: the workers, some local steps later.
            reset: as in `finish`.
        """
        for rows, before in zip(live, self._before, strict=True):
            for k in reset:
                _put_row(rows, before, k)
        for rows, moved in zip(live[:2], self._moved[:2], strict=True):
            if rows:
                torch._foreach_add_(*side_by_side(rows, moved))
        if live.others:
            torch._foreach_maximum_(*side_by_side(live.others, self._moved.others))


def _copy(rows: Rows) -> Rows:
    copy = rows.twin()
    if rows:
        copy_(copy, rows)
    return copy


def _put_row(rows: Rows, values: Rows, k: int) -> None:
    if rows:
        torch._foreach_copy_([x[k] for x in rows.values()], [x[k] for x in values.values()])
