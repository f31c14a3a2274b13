"""A copy of the hosted workers' parameters, on which a round runs while they train on."""

from collections.abc import Sequence

import torch

from grawa.math.leaves import Rows, copy_, side_by_side


class Shadow:
    """Lets a round run on a copy, and moves the workers by what it moved the copy by.

    It takes the memory of two copies of the parameters. `take` and `give`, for which the workers
    wait, are one pass over the parameters each; the rest is done where the round is.

    Args:
        params: a fragment's parameters, name -> (K, *shape).
    """

    def __init__(self, params: Rows) -> None:
        self._before = params.twin()
        self._moved = params.twin()

    def take(self, params: Rows) -> None:
        """Copies the workers."""
        copy_(self._before, params)

    def target(self) -> Rows:
        """The copy that the round may move, as the workers were; the same memory each time."""
        copy_(self._moved, self._before)
        return self._moved

    def finish(self, reset: Sequence[int]) -> None:
        """The round has moved the copy.

        Args:
            reset: hosted workers that are to be put where their copies are, since their own
                parameters are not to be built on.
        """
        for k in reset:
            _put_row(self._before, self._moved, k)
        torch._foreach_sub_(*reversed(side_by_side(self._before, self._moved)))

    def give(self, params: Rows, reset: Sequence[int]) -> None:
        """Moves the workers as far as the round has moved their copies.

        Args:
            params: the workers, some local steps later.
            reset: as in `finish`.
        """
        for k in reset:
            _put_row(params, self._before, k)
        torch._foreach_add_(*side_by_side(params, self._moved))


def _put_row(rows: Rows, source: Rows, k: int) -> None:
    torch._foreach_copy_([x[k] for x in rows.values()], [x[k] for x in source.values()])
