"""Numbers for formats that have only finite ones, such as JSON."""

import math


def finite_or_none(value: float | None) -> float | None:
    """The number, or `None` if it is not finite, which JSON can't represent."""
    return value if value is not None and math.isfinite(value) else None
