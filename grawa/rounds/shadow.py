"""A copy of the hosted workers' parameters, on which a round runs while they train on."""

from collections.abc import Sequence

import torch

from grawa.math.leaves import Rows, copy_, side_by_side


class Shadow:
    """Runs a round on a copy, and then gives the workers what came of it.

    If they have made local steps meanwhile, what the round changed in the copy is added to them.
    With `alpha` workers are mixed with the copy instead, and so keep only a part of what they have
    learnt while the round ran:

        x <- x + (y - x')                  x' the copy before the round, y after it
        x <- alpha x + (1 - alpha) y       with alpha

    If they have waited, they become what came of it. It needs memory for two copies of the
    parameters, for one if they wait. `take` and `give`, which block the workers, are one pass over
    the parameters each; the rest runs in the background.

    Args:
        params: a fragment's parameters, name -> (K, *shape).
        alpha: how much of themselves workers keep, if they are mixed with the copy.
        overlaps: whether workers make local steps meanwhile.

    Source: Douillard et al. (2025), "Streaming DiLoCo with overlapping communication", algorithm 2,
    for `alpha`.
    """

    def __init__(self, params: Rows, alpha: float | None = None, *, overlaps: bool = True) -> None:
        self._alpha = alpha
        self._overlaps = overlaps
        self._before = params.twin() if overlaps else params
        self._moved = params.twin()
        if not overlaps and not params.blocks:  # sums in the same order as without a copy
            self._moved.blocks.clear()

    def take(self, params: Rows) -> None:
        """Copies the workers' parameters, unless they wait."""
        if self._overlaps:
            copy_(self._before, params)
        else:
            self._before = params

    def target(self) -> Rows:
        """The copy for the round to move, with the values of `take`; always the same memory."""
        copy_(self._moved, self._before)
        return self._moved

    def finish(self, reset: Sequence[int]) -> None:
        """Called when the round has moved the copy; computes by how much, if that is added.

        For workers that wait it need not be called.

        Args:
            reset: hosted workers that take the copy's values as they are, because their own
                parameters are not usable.
        """
        for k in reset:
            _put_row(self._before, self._moved, k)
        if self._alpha is not None:
            return
        torch._foreach_sub_(*reversed(side_by_side(self._before, self._moved)))

    def settle(self, params: Rows) -> None:
        """Gives workers that have waited what the round has made of their copies."""
        copy_(params, self._moved)

    def result(self, out: Rows) -> None:
        """Copies what the round has made of the workers' copies, after `finish`."""
        if self._alpha is not None:
            copy_(out, self._moved)
            return
        before, moved, found = side_by_side(self._before, self._moved, out)
        torch._foreach_copy_(found, before)
        torch._foreach_add_(found, moved)

    def give(self, params: Rows, reset: Sequence[int]) -> None:
        """Adds to the workers what the round changed in their copies, or mixes them.

        Args:
            params: the workers' parameters, some local steps later.
            reset: as in `finish`.
        """
        for k in reset:
            _put_row(params, self._before, k)
        own, moved = side_by_side(params, self._moved)
        if self._alpha is None:
            torch._foreach_add_(own, moved)
        else:
            torch._foreach_lerp_(own, moved, 1.0 - self._alpha)


def _put_row(rows: Rows, source: Rows, k: int) -> None:
    torch._foreach_copy_([x[k] for x in rows.values()], [x[k] for x in source.values()])
