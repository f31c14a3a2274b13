"""The workers' rows side by side: functions of each column, and distances between rows."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from grawa.errors import UserError
from grawa.math.leaves import wide
from grawa.math.mean import CACHED

RowFunction = Callable[[Tensor], Tensor]
"""(M, C) -> (C,): makes one number of each column, whatever the other columns hold."""


def reduce_columns_(place: Tensor, rows: Sequence[Tensor], function: RowFunction) -> None:
    """Applies a function of columns to some rows.

    Args:
        place: (P,), overwritten with the result; it may share memory with a row.
        rows: M tensors (P,), of any dtype and on any device.
        function: gets copies in the place's dtype, or in float32 if that has 16 bits.

    Raises:
        UserError: if the function returns anything but one number for each column.

    >>> x = torch.tensor([3.0, 4.0])
    >>> reduce_columns_(x, [torch.tensor([5.0, 0.0]), x], lambda rows: rows.amax(dim=0))
    >>> x
    tensor([5., 4.])
    """
    for start, columns in _side_by_side(rows, place):
        found: object = function(columns)
        size = columns.shape[1]
        if not isinstance(found, Tensor) or found.shape != (size,):
            given = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            named = isinstance(found, tuple) and hasattr(found, "values")  # as torch.median's
            raise UserError(
                "a function of rows must return a tensor with one number for each column: for "
                f"rows of shape {tuple(columns.shape)} one of shape ({size},), got {given}"
                + (": take its .values" if named else "")
            )
        place[start : start + size].copy_(found)


def squared_distances(rows: Sequence[Tensor]) -> Tensor:
    """Squares of the L2 distances between rows.

    They are sums of squared differences. From scalar products they would be faster for many rows,
    but one row that is far away would take the digits of the others' distances.

    Args:
        rows: M tensors (P,), of any dtype.

    Returns:
        One for each pair, in the order (0, 1), (0, 2), ..., (1, 2), ...; in float32 or wider.

    >>> squared_distances([torch.tensor(x) for x in ([0.0, 0.0], [3.0, 4.0], [0.0, 1.0])]).round()
    tensor([25.,  1., 18.])
    """
    parts = [torch.pdist(columns).square() for _, columns in _side_by_side(rows, rows[0])]
    return torch.stack(parts).sum(dim=0)


def _side_by_side(rows: Sequence[Tensor], form: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Copies of the rows as (M, C), on a CPU as many columns at a time as stay in the cache."""
    size = form.numel()
    # On a GPU all at once, since each operation there has a cost of its own.
    width = max(1, CACHED // len(rows) if form.device.type == "cpu" else size)
    for start in range(0, size, width):
        parts = [row[start : start + width] for row in rows]
        columns = form.new_empty(len(rows), parts[0].numel(), dtype=wide(form.dtype))
        torch._foreach_copy_(list(columns.unbind()), parts)
        yield start, columns
