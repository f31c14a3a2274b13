"""Numbers for formats that know only finite ones, such as JSON."""

import math


def finite_or_none(value: float | None) -> float | None:
    """A number for a JSON file, which has none that are not finite."""
    return value if value is not None and math.isfinite(value) else None
