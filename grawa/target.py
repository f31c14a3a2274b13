"""What a round moves: the hosted workers as they train, or a copy of them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from grawa.stack import Rows, copy_, side_by_side


class Target(NamedTuple):
    """The parameters of a fragment, and the buffers that are averaged with it, if any."""

    params: Rows
    floats: Rows
    """Floating-point buffers."""
    others: Rows
    """All other buffers."""


class Shadow:
    """A copy of the hosted workers, on which a round can run while they train on.

    It takes the memory of two copies of what the round moves.

    Args:
        params: a fragment's parameters, as they train.
    """

    def __init__(self, params: Rows) -> None:
        self._before, self._after = params.twin(), params.twin()

    def take(self, live: Target) -> Target:
        """Copies the workers.

        Returns:
            The copy that a round may move; it is the same memory each time.
        """
        self._buffers = _copy(live.floats)
        self._target = Target(self._after, _copy(live.floats), _copy(live.others))
        for copy in (self._before, self._after):
            copy_(copy, live.params)
        return self._target

    def give(self, live: Target, reset: Sequence[int]) -> None:
        """Moves the workers as far as the round has moved their copies.

        Args:
            live: the workers, some local steps later.
            reset: hosted workers that are put where their copies are, since their own parameters
                are not to be built on.
        """
        for k in reset:
            for rows, moved in zip(live, self._target, strict=True):
                _put_row(rows, moved, k)
            _put_row(self._before, self._after, k)
            _put_row(self._buffers, self._target.floats, k)
        _displace(live.params, self._before, self._after)
        _displace(live.floats, self._buffers, self._target.floats)
        if live.others:
            others, found = side_by_side(live.others, self._target.others)
            torch._foreach_maximum_(others, found)


def _copy(rows: Rows) -> Rows:
    copy = rows.twin()
    if rows:
        copy_(copy, rows)
    return copy


def _put_row(rows: Rows, values: Rows, k: int) -> None:
    if rows:
        torch._foreach_copy_([x[k] for x in rows.values()], [x[k] for x in values.values()])


def _displace(live: Rows, before: Rows, after: Rows) -> None:
    """Live <- live + (after - before); `after` is used up."""
    if live:
        lives, befores, afters = side_by_side(live, before, after)
        torch._foreach_sub_(afters, befores)
        torch._foreach_add_(lives, afters)
