"""Whether numbers are finite."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def finite_or_none(value: float | None) -> float | None:
    """The number, or `None` if it is not finite, which JSON can't represent."""
    return value if value is not None and math.isfinite(value) else None


def are_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all numbers in some tensors are finite; waits for their device once."""
    found = [x.isfinite().all() for x in tensors]
    return not found or bool(torch.stack([each.to(found[0].device) for each in found]).all())
